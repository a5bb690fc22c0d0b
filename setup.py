"""Metadata of zmqdist; pyproject.toml holds the build system and the tools."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"

SPARK = ["pyspark>=3.5"]
GENSIM = ["gensim>=4.3"]
PROGRESS = ["tqdm>=4.60"]
SKLEARN = ["scikit-learn>=1.3"]
TORCH = ["torch>=2.3"]  # the first that knows numpy 2
PLOT = ["matplotlib>=3.6"]
TUNE = [*PLOT, *SKLEARN, "rich>=13", "scipy>=1.10"]

setup(
    name="zmqdist",
    version="0.1.0",
    description="Asynchronous SGD of any Python model on Spark, over ZeroMQ",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="sgd asynchronous distributed spark zeromq word2vec staleness",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["zmqdist*"]),
    package_data={"zmqdist": ["py.typed", "tuning/report/page.css"]},
    python_requires=">=3.11,<3.14",
    install_requires=["numpy", "pyzmq>=26", "blosc>=1.11", "cloudpickle>=3"],
    extras_require={
        "spark": SPARK,
        "gensim": GENSIM,
        "sklearn": SKLEARN,
        "torch": TORCH,
        "progress": PROGRESS,
        "plot": PLOT,
        "tune": TUNE,
        "test": [
            *SPARK,
            *GENSIM,
            *PROGRESS,
            *TUNE,
            "hypothesis",
            "pandas",
            "pytest>=8",
            "pytest-cov",
            "pytest-timeout",
            "setuptools>=70.1",  # tests/test_packaging.py builds a wheel without the network
        ],
        "audit": ["pip-audit"],
        "fuzz": ["atheris", "scipy"],
        "lint": ["import-linter>=2.3", "mypy>=1.11", "ruff>=0.9"],
    },
    entry_points={
        "console_scripts": [
            "zmqdist-master = zmqdist.cli:main",
            "zmqdist-tune = zmqdist.tuning.cli:main",
        ]
    },
)
