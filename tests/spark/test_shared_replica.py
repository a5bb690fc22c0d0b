"""Python workers of one executor share a replica."""

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow]


@pytest.mark.timeout(300)
def test_workers_of_an_executor_share(start, tmp_path):
    answer = start("shared_replica.py", tmp_path).answer(280)
    assert answer["n"] == answer["applied"] == 36
    assert answer["whole"]
    assert answer["sessions"] == 6
    assert answer["processes"] == 6
    assert len(answer["segments"]) == 1
    assert answer["left"] == 0
