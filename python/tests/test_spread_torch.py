"""Programs of one replica with PyTorch, run on two and three."""
import json
import time

import pytest

pytest.importorskip("torch")

LOOP = """
import json, sys
import torch
torch.manual_seed(%(seed)s)
x = torch.randn(96, 5)
y = (x @ torch.arange(5.0) + 1)[:, None]
model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
opt = torch.optim.%(opt)s
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=12, shuffle=True)
steps = seen = 0
for epoch in range(4):
    model.train()
    for a, b in loader:
        opt.zero_grad()
        loss = ((model(a) - b) ** 2).mean()
        loss.backward()
        %(between)s
        opt.step()
        steps += 1
        seen += len(a)
model.eval()
with torch.no_grad():
    tested = sum(len(a) for a, b in torch.utils.data.DataLoader(loader.dataset, batch_size=10))
print(json.dumps({"w": [p.flatten().tolist() for p in model.parameters()], "steps": steps, "seen": seen, "tested": tested}))
"""


def result(done):
    return json.loads(done.stdout.splitlines()[-1])


def close(a, b, within):
    return all(abs(p - q) <= within for x, y in zip(a, b) for p, q in zip(x, y))


@pytest.mark.parametrize(
    "opt, between",
    [
        ("SGD(model.parameters(), lr=0.05, momentum=0.9)", "pass"),
        ("Adam(model.parameters(), lr=0.05)", "torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)"),
    ],
)
@pytest.mark.parametrize("n", [2, 3])
def test_it_comes_to_what_it_comes_to_alone(spread, opt, between, n):
    """Same samples in each step, same steps: the same weights, up to rounding."""
    code = LOOP % {"seed": 3, "opt": opt, "between": between}
    alone = result(spread(code, n=1)[0])
    assert alone["steps"] == 32 and alone["seen"] == 384
    got = [result(d) for d in spread(code, n=n)]
    for g in got:
        assert g["steps"] == 32 and g["seen"] == 384 / n and g["tested"] == 96
        assert close(g["w"], got[0]["w"], 0)
        assert close(g["w"], alone["w"], 1e-4)


def test_one_that_ends_early_is_missed_at_once(spread):
    """As by the loss of its own part: the others do not wait for it, and say why."""
    code = LOOP % {"seed": 3, "opt": "SGD(model.parameters(), lr=0.05)", "between": "import os; steps == 5 and '\"worker\", \"index\": 1' in os.environ['TF_' + 'CONFIG'] and sys.exit()"}
    begun = time.monotonic()
    a, b = spread(code, check=False)
    assert b.returncode == 0 and a.returncode == 1 and time.monotonic() - begun < 120
    assert "a replica that this one trains with is gone" in a.stderr and "ended its training after fewer steps" in a.stderr


def test_without_seeds_all_begin_alike(spread):
    code = LOOP.replace("torch.manual_seed(%(seed)s)", "") % {"opt": "SGD(model.parameters(), lr=0.05)", "between": "pass"}
    a, b = [result(d) for d in spread(code)]
    assert a["w"] == b["w"] and a["steps"] == b["steps"] == 32


def test_batches_that_cannot_be_cut_evenly(spread):
    """96 in batches of 7 by 2: 13 of 4 and 4, one of 3 and 3; nobody waits."""
    code = LOOP.replace("batch_size=12", "batch_size=7") % {"seed": 3, "opt": "SGD(model.parameters(), lr=0.01)", "between": "pass"}
    a, b = [result(d) for d in spread(code)]
    assert a["w"] == b["w"] and a["steps"] == b["steps"] == 4 * 14 and a["seen"] == b["seen"] == 4 * (13 * 4 + 3)


ACCUMULATE = """
import json, torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
g = torch.Generator().manual_seed(5)
x = torch.randn(8, 3, generator=g)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=2, shuffle=True)
unused = torch.nn.Linear(2, 2)
opt = torch.optim.SGD(list(model.parameters()) + list(unused.parameters()), lr=0.1)
for i, (a,) in enumerate(loader):
    (model(a).mean() / 4).backward()
    if i % 2:
        opt.step(); opt.zero_grad()
grads = torch.autograd.grad(model(x).sum(), list(model.parameters()))
for p, q in zip(model.parameters(), grads): p.grad = q
opt.step()
assert unused.weight.grad is None
print(json.dumps({"w": [p.flatten().tolist() for p in model.parameters()]}))
"""


def test_accumulated_gradients_unused_parameters_and_gradients_without_backward(spread):
    alone = result(spread(ACCUMULATE, n=1)[0])
    for d in spread(ACCUMULATE):
        assert close(result(d)["w"], alone["w"], 1e-5)


GAN = """
import json, torch
torch.manual_seed(0)
G, D = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
og, od = torch.optim.Adam(G.parameters(), lr=0.01), torch.optim.Adam(D.parameters(), lr=0.01)
real = torch.randn(64, 2) + 3
for (r,) in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(real), batch_size=16, shuffle=True):
    z = r - 3
    od.zero_grad()
    (D(G(z).detach()).mean() - D(r).mean()).backward()
    od.step()
    og.zero_grad()
    (-D(G(z)).mean()).backward()
    og.step()
print(json.dumps({"w": [p.flatten().tolist() for m in (G, D) for p in m.parameters()]}))
"""


def test_two_optimizers(spread):
    alone = result(spread(GAN, n=1)[0])
    for d in spread(GAN):
        assert close(result(d)["w"], alone["w"], 1e-5)


BATCH_NORM = """
import json, torch
model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
opt = torch.optim.SGD(model.parameters(), lr=0.01)
x = torch.randn(64, 2)
for epoch in range(2):
    model.train()
    for (a,) in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=16, shuffle=True):
        opt.zero_grad(); model(a).pow(2).mean().backward(); opt.step()
    model.eval()
    with torch.no_grad():
        score = model(x).mean().item()
print(json.dumps({"score": score}))
"""


def test_all_evaluate_the_same_model(spread):
    a, b = [result(d) for d in spread(BATCH_NORM)]
    assert a == b


OWN_BATCHES = """
import json, torch
torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(100, 4)
orders = []
for epoch in range(3):
    order = torch.randperm(100)
    orders.append(order[:5].tolist())
    for i in range(5):
        loss = model(x[order[i * 20:(i + 1) * 20]]).pow(2).mean()
        opt.zero_grad(); loss.backward(); opt.step()
print(json.dumps({"w": [p.flatten().tolist() for p in model.parameters()], "orders": orders}))
"""


def test_a_loop_that_cuts_its_own_batches(spread):
    """After the first step each draws its own, and the weights stay one."""
    (a, b), alone = [result(d) for d in spread(OWN_BATCHES)], result(spread(OWN_BATCHES, n=1)[0])
    assert a["w"] == b["w"] and a["orders"][0] == b["orders"][0] and a["orders"][1] != b["orders"][1]
    assert a["orders"] == alone["orders"]  # the chief draws what it would draw alone


def test_checkpoints_are_the_chiefs(spread):
    code = LOOP + "\nimport mlaas, os\ntorch.save(model.state_dict(), 'm-%%d.pt' %% os.getpid())\nprint(json.dumps({'kept': mlaas.checkpoint('m-%%d.pt' %% os.getpid(), step=1) is not None}))"
    a, b = [result(d) for d in spread(code % {"seed": 1, "opt": "SGD(model.parameters(), lr=0.1)", "between": "pass"})]
    assert a["kept"] and not b["kept"]


def test_workers_of_a_loader_are_no_replicas(spread):
    code = (LOOP % {"seed": 3, "opt": "SGD(model.parameters(), lr=0.01)", "between": "pass"}).replace("shuffle=True", "shuffle=True, num_workers=2, multiprocessing_context='fork'").replace("range(4)", "range(2)")
    a, b = [result(d) for d in spread(code)]
    assert a["w"] == b["w"] and a["seen"] == b["seen"] == 96


def test_a_program_that_distributes_itself_is_left_alone(spread):
    code = "import os, torch\nprint(os.environ.get('RANK'))\nm = torch.nn.Linear(1, 1)\ntorch.optim.SGD(m.parameters(), lr=1)\nimport torch.distributed as d\nprint(d.is_initialized())"
    for d in spread(code):
        assert d.stdout == "None\nFalse\n"
