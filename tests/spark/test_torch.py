"""A PyTorch module and its loss reach Spark's workers."""

import numpy as np
import pytest

from zmqdist import ZmqDist
from zmqdist.optim import Adam

pytestmark = pytest.mark.spark


def test_a_module_learns_a_line(sc):
    torch = pytest.importorskip("torch")
    from zmqdist.models.torch import LossGradient

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.layer(x)

    def loss(module, rows):
        rows = torch.tensor(rows)
        return ((module(rows[:, :3]) - rows[:, 3:]) ** 2).mean()

    x = np.random.default_rng(0).normal(size=(2000, 3))
    rows = np.column_stack([x, x @ [1, -2, 3]]).astype(np.float32).tolist()
    module = Line()
    with ZmqDist(module) as dd:
        result = dd.train(
            sc.parallelize(rows, 4), LossGradient(loss), Adam(0.05), batch_size=20, epochs=3
        )
    assert result.applied == 300
    assert module.layer.weight.tolist()[0] == pytest.approx([1, -2, 3], abs=0.05)
