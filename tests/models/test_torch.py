"""PyTorch modules: what travels, how it is pickled, and the gradient of a loss."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zmqdist import RowSparse, ZmqDist, delta
from zmqdist.errors import ConfigError, GradientError, ModelError
from zmqdist.models import parameters_of
from zmqdist.models.structure import dump_structure, load_structure
from zmqdist.optim import SGD, Adam

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from zmqdist.models.torch import LossGradient  # noqa: E402

torch.set_num_threads(1)  # in modules as small as these two would wait for each other

FRESH: dict[str, Any] = {"security": "none", "max_in_flight": 1, "publish_every": 1}


def network(*middle: Any) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, 1))


def rows(n: int = 64) -> list[Any]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, x.sum(1, keepdim=True)], 1).tolist()  # type: ignore[no-any-return]


def loss(module: Any, batch: Any) -> Any:
    batch = torch.tensor(batch)
    return ((module(batch[:, :4]) - batch[:, 4:]) ** 2).mean()


def steps(module: Any, data: Any, size: int, lr: float) -> Any:
    """Take the steps of one process by torch itself; return the module."""
    optimizer = torch.optim.SGD(module.parameters(), lr)
    for start in range(0, len(data), size):
        optimizer.zero_grad()
        loss(module, data[start : start + size]).backward()
        optimizer.step()
    return module


def assert_same(one: Any, other: Any, **tolerance: float) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], msg=name, **tolerance)


# ---- what travels ----------------------------------------------------------------------------


def test_arrays_are_the_memory_of_parameters_and_persistent_buffers() -> None:
    module = network(nn.BatchNorm1d(8))
    module.register_buffer("cache", torch.ones(3), persistent=False)
    parameters = parameters_of(module)
    arrays = parameters.arrays()
    assert set(arrays) == set(module.state_dict())
    assert parameters.scalars() == {}
    arrays["0.weight"][1, 2] = 7
    arrays["1.num_batches_tracked"] += 3
    assert module[0].weight[1, 2] == 7
    assert module[1].num_batches_tracked == 3
    with torch.no_grad():
        module[0].bias.fill_(5)
    assert arrays["0.bias"].tolist() == [5] * 8


def test_a_version_that_is_loaded_reaches_torch() -> None:
    module, other = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    other[1].num_batches_tracked += 2
    parameters_of(module).load(
        {name: tensor.numpy() + 1 for name, tensor in other.state_dict().items()}, {}
    )
    assert torch.equal(module[3].weight, other[3].weight + 1)
    assert module[1].num_batches_tracked == 3


def test_tied_parameters_count_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    assert list(parameters_of(module).arrays()) == ["0.weight", "0.bias", "1.bias"]


def test_what_is_not_contiguous_travels_too() -> None:
    module = nn.Conv2d(3, 5, 2).to(memory_format=torch.channels_last)
    parameters = parameters_of(module)
    parameters.load({"weight": np.arange(60, dtype=np.float32).reshape(5, 3, 2, 2)}, {})
    assert module.weight[1, 2, 0, 1] == 12 + 8 + 1


def test_parameters_that_are_replaced_are_found_again() -> None:
    module = network()
    parameters = parameters_of(module)
    module[0].weight = nn.Parameter(torch.ones(8, 4))
    module[2] = nn.Linear(8, 1)
    parameters.load({"0.weight": np.full((8, 4), 2, np.float32)}, {})
    assert (module[0].weight == 2).all()
    assert np.shares_memory(parameters.arrays()["2.weight"], module[2].weight.detach().numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.__setitem__(0, nn.Linear(4, 9)),
            r"'0\.weight'.*was float32 \(8, 4\), is floa",
        ),
        (lambda m: m.double(), r"'0\.weight' of the module changed: .* is float64"),
        (lambda m: m.append(nn.Linear(1, 1)), r"'3\.weight' is new in the module"),
        (lambda m: delattr(m[2], "bias"), r"'2\.bias' vanished from the module"),
        (lambda m: m.to("meta"), r"is on the device meta, expected the CPU.*to_empty"),
    ],
)
def test_a_module_that_becomes_another_is_refused(change: Any, message: str) -> None:
    module = network()
    parameters = parameters_of(module)
    change(module)
    with pytest.raises(ModelError, match=message):
        parameters.arrays()


def view_of_one_another() -> Any:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = nn.Parameter(module[0].weight)
    return module


def sparse() -> Any:
    module = network()
    module.mask = nn.Parameter(torch.eye(3).to_sparse())
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.ReLU(), "this ReLU has no parameters"),
        (nn.LazyLinear(3), "'weight' of the module has no shape yet; call the module once"),
        (nn.Linear(2, 2, device="meta"), "'weight' .* device meta, expected the CPU"),
        (nn.Linear(2, 2, dtype=torch.bfloat16), r"bfloat16.*numpy cannot view.*module\.float\(\)"),
        (sparse(), r"'mask' of the module is torch.float32, torch.sparse_coo"),
        (view_of_one_another(), r"'0\.weight' and '1\.weight' of the model share memory"),
    ],
)
def test_what_cannot_travel_is_named(module: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parameters_of(module)


def test_views_of_one_buffer_that_do_not_overlap_are_fine() -> None:
    whole = torch.zeros(6)
    module = nn.ParameterList([nn.Parameter(whole[:3]), nn.Parameter(whole[3:])])
    assert list(parameters_of(module).arrays()) == ["0", "1"]


def test_modules_in_other_models_are_refused_unless_they_learn_nothing() -> None:
    model = {"w": np.zeros(2), "net": nn.Linear(2, 2)}
    with pytest.raises(ModelError, match=r"'net\._parameters\.weight' is a torch\..*\.ModuleDict"):
        parameters_of(model)
    for tensor in (nn.Parameter(torch.ones(2)), torch.ones(2)):
        with pytest.raises(ModelError, match=r"'model' is a torch\..*, expected a numpy array"):
            parameters_of(tensor)
    model["net"].requires_grad_(False)
    assert "w" in parameters_of(model).arrays()


# ---- its structure ---------------------------------------------------------------------------


def there(module: Any, *extras: Any) -> Any:
    """Send a module as a worker gets it."""
    parameters = parameters_of(module)
    copied, *others = load_structure(dump_structure(module, parameters, *extras))
    replica = parameters_of(copied)
    replica.check(parameters.schema())
    assert not any(array.any() for array in replica.arrays().values())
    replica.load(parameters.arrays(), {})
    return (copied, *others) if extras else copied


@pytest.mark.parametrize(
    "module",
    [
        network(nn.BatchNorm1d(8)),
        nn.LSTM(16, 32),
        nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last),
        nn.TransformerEncoderLayer(16, 2).half(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_structure_and_versions_make_the_same_module(module: Any) -> None:
    copied = there(module)
    assert_same(copied, module, rtol=0, atol=0)
    for one, other in zip(copied.parameters(), module.parameters(), strict=True):
        assert (type(one), one.stride()) == (type(other), other.stride())


def test_the_weights_do_not_travel_with_the_structure() -> None:
    module = nn.Sequential(nn.Linear(300, 300), nn.BatchNorm1d(300), nn.LSTM(300, 300))
    payload = dump_structure(module, parameters_of(module), LossGradient(lambda m, b: module(b)))
    assert len(payload) < 6_000
    assert len(pickle.dumps(module)) > 1_000_000


def test_what_else_a_tensor_is_stays() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    module[0].bias.no_decay = True
    module.register_buffer("cache", torch.ones(3), persistent=False)
    copied, closure = there(module, lambda: module)
    assert copied[1].weight is copied[0].weight
    assert [p.requires_grad for p in copied.parameters()] == [True, False, True]
    assert copied[0].bias.no_decay
    assert copied.cache.tolist() == [1, 1, 1]
    assert closure() is copied


# ---- the gradient ----------------------------------------------------------------------------


def test_gradient_is_that_of_the_loss_by_name() -> None:
    module, data = network(), rows(8)
    module[0].bias.requires_grad_(False)
    module.unused = nn.Linear(1, 1)
    module.eval()
    gradient = LossGradient(lambda m, batch: loss(m[:3], batch))
    gradient(module, rows(16))  # leaves nothing behind
    update = gradient(module, data)
    assert module.training
    assert update.metrics == {"loss": pytest.approx(loss(module[:3], data).item())}
    wanted = torch.autograd.grad(
        loss(module[:3], data), [module[0].weight, module[2].weight, module[2].bias]
    )
    assert list(update.arrays) == ["0.weight", "2.weight", "2.bias"]
    for found, expected in zip(update.arrays.values(), wanted, strict=True):
        np.testing.assert_array_equal(found, expected.numpy())


def test_sparse_gradients_become_rows() -> None:
    dense, table = nn.Embedding(50, 4), nn.Embedding(50, 4, sparse=True)
    gradient = LossGradient(lambda m, batch: (m(torch.tensor(batch)) ** 2).sum())
    table.load_state_dict(dense.state_dict())
    found = gradient(table, [7, 3, 7]).arrays["weight"]
    assert isinstance(found, RowSparse)
    assert found.rows.tolist() == [3, 7]
    np.testing.assert_allclose(np.asarray(found), gradient(dense, [7, 3, 7]).arrays["weight"])


def test_threads_are_those_asked_for_and_only_within() -> None:
    seen = []

    def noting(module: Any, batch: Any) -> Any:
        seen.append(torch.get_num_threads())
        return loss(module, batch)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for threads in (1, 2, None):
            LossGradient(noting, threads=threads)(network(), rows(2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 3]
    with pytest.raises(ConfigError, match="threads is 0; expected an integer >= 1"):
        LossGradient(loss, threads=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, b: loss(m, b).item(), "the loss is a float"),
        (lambda m, b: m(torch.tensor(b)[:, :4]), r"a tensor of shape \(5, 1\); expected .* one el"),
        (lambda m, b: loss(m, b).detach(), r"of shape \(\) without a gradient"),
    ],
)
def test_a_loss_that_is_none_is_explained(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossGradient(wrong)(network(), rows(5))


@pytest.mark.usefixtures("threads")
def test_buffers_that_the_forward_pass_changes() -> None:
    module = network(nn.BatchNorm1d(8))
    with ZmqDist(module, security="none") as dd, pytest.raises(GradientError) as caught:
        dd.train([rows()], LossGradient(loss), SGD(0.01), batch_size=16)
    assert "['1.running_mean', '1.running_var', '1.num_batches_tracked']" in str(caught.value)
    assert "leave_buffers=True" in str(caught.value)

    left = network(nn.BatchNorm1d(8))
    with ZmqDist(left, **FRESH) as dd:
        gradient = LossGradient(loss, leave_buffers=True)
        dd.train([rows()], gradient, SGD(0.01), batch_size=16, epochs=3, workers=1)
    assert left[1].num_batches_tracked == 0
    steps(module, rows() * 3, 16, 0.01)
    assert_same(left[0], module[0])

    batches = torch.tensor(rows())[:, :4].split(16)
    torch.optim.swa_utils.update_bn(batches, left)
    torch.optim.swa_utils.update_bn(batches, module)
    assert left[1].num_batches_tracked == 4
    assert_same(left, module)


def test_buffers_that_stay_as_they_are_disturb_nobody() -> None:
    module = network()
    module.register_buffer("scale", torch.tensor(2.0))
    module.register_buffer("calls", torch.tensor(0), persistent=False)

    def counting(module: Any, batch: Any) -> Any:
        module.calls += 1
        return loss(module, batch) * module.scale

    assert LossGradient(counting)(module, rows(4)).arrays


# ---- training --------------------------------------------------------------------------------


def test_one_worker_process_takes_the_steps_of_torch() -> None:
    module, data = network(), rows()
    with ZmqDist(module, **FRESH) as dd:
        result = dd.train([data], LossGradient(loss), SGD(0.02), batch_size=8, workers=1, epochs=2)
    assert result.staleness == {0: 16}
    assert any(entry.get("loss", 0) > 0 for entry in result.history)
    assert_same(module, steps(network(), data * 2, 8, 0.02), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("threads")
def test_an_optimizer_of_torch_on_the_master_takes_its_steps_to_the_bit() -> None:
    module, data = network(), rows()
    optimizer = torch.optim.SGD(module.parameters(), 0.02)

    def descent(module: Any, update: Any) -> None:
        for name, parameter in module.named_parameters():
            parameter.grad = torch.from_numpy(update[name])
        optimizer.step()

    with ZmqDist(module, **FRESH) as dd:
        dd.train([data], LossGradient(loss), descent, batch_size=8, workers=1, epochs=2)
    assert_same(module, steps(network(), data * 2, 8, 0.02), rtol=0, atol=0)


@pytest.mark.usefixtures("threads")
def test_differences_of_a_module_that_was_trained_in_place() -> None:
    module, data = network(nn.BatchNorm1d(8)), rows()

    def gradient(module: Any, batch: Any) -> Any:
        with delta(module) as update:
            steps(module, batch, 8, 0.02)
        return update

    with ZmqDist(module, **FRESH) as dd:
        dd.train([data], gradient, batch_size=16, workers=1, epochs=2)
    assert module[1].num_batches_tracked == 16
    assert_same(module, steps(network(nn.BatchNorm1d(8)), data * 2, 8, 0.02), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("threads")
def test_frozen_parameters_reach_the_workers_and_can_be_thawed() -> None:
    module = network()
    module[0].requires_grad_(False)
    before = copy.deepcopy(module)
    with ZmqDist(module, security="none") as dd:
        dd.train([rows()] * 2, LossGradient(loss), Adam(0.01), batch_size=16)
        assert_same(module[0], before[0], rtol=0, atol=0)
        assert not torch.equal(module[2].weight, before[2].weight)
        module[0].requires_grad_(True)
        dd.train([rows()] * 2, LossGradient(loss), Adam(0.01), batch_size=16)
    assert not torch.equal(module[0].weight, before[0].weight)


@pytest.mark.usefixtures("threads")
def test_two_workers_learn_what_an_embedding_has_to_tell() -> None:
    table, wanted = nn.Embedding(40, 2, sparse=True), torch.arange(80.0).reshape(40, 2) / 80

    def distance(module: Any, batch: Any) -> Any:
        batch = torch.tensor(batch)
        return ((module(batch) - wanted[batch]) ** 2).sum()

    with ZmqDist(table, security="none") as dd:
        data = [list(range(0, 40, 2)), list(range(1, 40, 2))]
        dd.train(data, LossGradient(distance), SGD(0.2), batch_size=4, epochs=40, workers=2)
    torch.testing.assert_close(table.weight.detach(), wanted, rtol=0, atol=0.01)


@pytest.mark.usefixtures("threads")
def test_a_checkpoint_holds_parameters_and_buffers(tmp_path: Path) -> None:
    module, again = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    module[1].num_batches_tracked += 5
    gradient = LossGradient(loss, leave_buffers=True)
    with ZmqDist(module, security="none", checkpoint=tmp_path) as dd:
        dd.train([rows()], gradient, Adam(0.01), batch_size=16)
    with ZmqDist(again, security="none", checkpoint=tmp_path, resume=True):
        pass
    assert_same(again, module, rtol=0, atol=0)
