"""evaluate() against scikit-learn, which is the reference, and what it refuses."""
import json
import math
import time

import pytest

import mlaas
from mlaas import _evaluate

np = pytest.importorskip("numpy")
metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nothing is recorded unless a test says so."""
    monkeypatch.setattr(_evaluate._log._recorder, "off", True)


@pytest.fixture(params=["numpy", "lists"])
def given(request, monkeypatch):
    """The same data as arrays, and as lists where there is no NumPy."""
    if request.param == "numpy":
        return lambda a: a
    monkeypatch.setattr(_evaluate, "_numpy", lambda: None)
    return lambda a: None if a is None else a.tolist()


def same(got, want, at=1e-9):
    assert got == pytest.approx(float(want), abs=at, rel=at)


def data(seed, n=300, k=4, ties=True):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    s = rng.random((n, k)) + 1.2 * (np.arange(k) == y[:, None])
    s /= s.sum(axis=1, keepdims=True)
    if ties:
        s = np.round(s, 2)
    return y, s, rng.random(n) * 3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_binary(given, seed, weighted):
    y, s, w = data(seed, k=2)
    p, w = s[:, 1], w if weighted else None
    found = mlaas.evaluate(given(y), given(p), sample_weight=given(w))
    scores, hard = found["scores"], (p >= 0.5).astype(int)
    assert found["task"] == "binary" and found["threshold"] == 0.5
    for key, want in {
        "accuracy": metrics.accuracy_score, "precision": metrics.precision_score, "recall": metrics.recall_score,
        "f1": metrics.f1_score, "mcc": metrics.matthews_corrcoef, "balanced_accuracy": metrics.balanced_accuracy_score,
    }.items():
        same(scores[key], want(y, hard, sample_weight=w))
    same(scores["auc"], metrics.roc_auc_score(y, p, sample_weight=w))
    same(scores["ap"], metrics.average_precision_score(y, p, sample_weight=w))
    same(scores["log_loss"], metrics.log_loss(y, p, sample_weight=w))
    same(scores["brier"], metrics.brier_score_loss(y, p, sample_weight=w))
    np.testing.assert_allclose(found["confusion"]["matrix"], metrics.confusion_matrix(y, hard, sample_weight=w), atol=1e-9)
    if not weighted:
        from sklearn.calibration import calibration_curve

        true, sure = calibration_curve(y, p, n_bins=10)
        np.testing.assert_allclose([b[:2] for b in found["calibration"][0]["bins"]], np.stack([sure, true], axis=1), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_multiclass(given, seed, weighted):
    y, s, w = data(seed)
    s = s / s.sum(axis=1, keepdims=True)
    w = w if weighted else None
    found = mlaas.evaluate(given(y), given(s), labels=["a", "b", "c", "d"], sample_weight=given(w))
    scores, hard = found["scores"], s.argmax(axis=1)
    for key, of in {"precision": metrics.precision_score, "recall": metrics.recall_score, "f1": metrics.f1_score}.items():
        for average in ("macro", "weighted"):
            same(scores["%s_%s" % (key, average)], of(y, hard, average=average, sample_weight=w))
        np.testing.assert_allclose([r[key] for r in found["perClass"]], of(y, hard, average=None, sample_weight=w), atol=1e-9)
    same(scores["mcc"], metrics.matthews_corrcoef(y, hard, sample_weight=w))
    same(scores["log_loss"], metrics.log_loss(y, s, sample_weight=w))
    same(scores["top_2"], metrics.top_k_accuracy_score(y, s, k=2, sample_weight=w))
    same(scores["top_3"], metrics.top_k_accuracy_score(y, s, k=3, sample_weight=w))
    same(scores["brier"], np.average(((s - np.eye(4)[y]) ** 2).sum(axis=1), weights=w))
    same(scores["auc_macro"], metrics.roc_auc_score(y, s, multi_class="ovr", sample_weight=w))
    one = np.eye(4)[y]
    same(scores["auc_micro"], metrics.roc_auc_score(one, s, average="micro", sample_weight=w))
    same(scores["ap_macro"], metrics.average_precision_score(one, s, average="macro", sample_weight=w))
    same(scores["ap_micro"], metrics.average_precision_score(one, s, average="micro", sample_weight=w))
    for k, row in enumerate(found["perClass"]):
        same(row["auc"], metrics.roc_auc_score(y == k, s[:, k], sample_weight=w))
    assert [c["label"] for c in found["roc"]] == ["a", "b", "c", "d", "macro", "micro"]


def test_hard_predictions_of_texts(given):
    y, s, _ = data(1, k=3)
    names = np.array(["cat", "dog", "owl"])
    found = mlaas.evaluate(given(names[y]), given(names[s.argmax(axis=1)]))
    assert found["labels"] == ["cat", "dog", "owl"] and found["task"] == "multiclass" and "roc" not in found
    same(found["scores"]["accuracy"], metrics.accuracy_score(y, s.argmax(axis=1)))
    same(found["scores"]["f1_macro"], metrics.f1_score(y, s.argmax(axis=1), average="macro"))


def test_a_class_without_rows(given):
    y, s, _ = data(2)
    y[y == 3] = 0
    found = mlaas.evaluate(given(y), given(s))
    assert [r["support"] for r in found["perClass"]][3] == 0 and found["perClass"][3]["auc"] is None
    assert any("no ROC curve of '3'" in n for n in found["notes"])
    same(found["scores"]["auc_macro"], np.mean([metrics.roc_auc_score(y == k, s[:, k]) for k in range(3)]))
    json.dumps(found, allow_nan=False)


def test_decision_scores_are_no_probabilities(given):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    s = rng.normal(size=200) + y
    found = mlaas.evaluate(given(y), given(s))
    assert found["threshold"] == 0 and "log_loss" not in found["scores"] and "no probabilities" in found["notes"][0]
    same(found["scores"]["auc"], metrics.roc_auc_score(y, s))
    same(found["scores"]["accuracy"], metrics.accuracy_score(y, s >= 0))


@pytest.mark.parametrize("weighted", [False, True])
def test_multilabel(given, weighted):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, (200, 3))
    s = np.round(np.clip(rng.random((200, 3)) * 0.7 + 0.3 * y, 0, 1), 2)
    w = rng.random(200) if weighted else None
    found = mlaas.evaluate(given(y), given(s), labels=["x", "y", "z"], sample_weight=given(w))
    hard, scores = (s >= 0.5).astype(int), found["scores"]
    same(scores["accuracy"], metrics.accuracy_score(y, hard, sample_weight=w))
    same(scores["hamming_loss"], metrics.hamming_loss(y, hard, sample_weight=w))
    for average in ("micro", "macro", "weighted"):
        same(scores["f1_" + average], metrics.f1_score(y, hard, average=average, sample_weight=w))
    same(scores["auc_macro"], metrics.roc_auc_score(y, s, average="macro", sample_weight=w))
    same(scores["auc_micro"], metrics.roc_auc_score(y, s, average="micro", sample_weight=w))
    same(scores["ap_micro"], metrics.average_precision_score(y, s, average="micro", sample_weight=w))
    np.testing.assert_allclose(found["perLabel"], metrics.multilabel_confusion_matrix(y, hard, sample_weight=w), atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_regression(given, weighted):
    rng = np.random.default_rng(4)
    t = rng.normal(size=5000) * 3 + 1e6
    s = t + rng.normal(size=5000)
    w = rng.random(5000) if weighted else None
    found = mlaas.evaluate(given(t), given(s), sample_weight=given(w))
    scores = found["scores"]
    for key, of in {"r2": metrics.r2_score, "mae": metrics.mean_absolute_error, "mse": metrics.mean_squared_error,
                    "rmse": metrics.root_mean_squared_error, "explained_variance": metrics.explained_variance_score}.items():
        same(scores[key], of(t, s, sample_weight=w))
    same(scores["max_error"], metrics.max_error(t, s))
    if not weighted:
        same(scores["median_absolute_error"], metrics.median_absolute_error(t, s))
    assert len(found["sample"]) == 1000
    same(sum(found["residuals"]["counts"]), 5000 if w is None else w.sum())


def test_constant_truth(given):
    t, s = np.full(5, 2.5), np.array([2.0, 2.5, 3.0, 2.5, 2.5])
    same(mlaas.evaluate(given(t), given(s))["scores"]["r2"], metrics.r2_score(t, s))
    same(mlaas.evaluate(given(t), given(t))["scores"]["r2"], metrics.r2_score(t, t))


@pytest.mark.parametrize("case, said", [
    (dict(y_true=[0, 1], y_score=[0.5, math.nan]), "y_score[1] is nan, want a finite number"),
    (dict(y_true=[0.5, math.inf], y_score=[0.5, 1.5]), "y_true[1] is inf, want a finite number"),
    (dict(y_true=[], y_score=[]), "y_true has no rows"),
    (dict(y_true=[0, 1, 1], y_score=[0.5, 0.1]), "y_score has 2 rows and y_true 3"),
    (dict(y_true=[0, 1, 2], y_score=[0.5, 0.1, 0.2], task="multiclass"), "y_score has one score a row, want one for each of the 3 classes"),
    (dict(y_true=["a", "b"], y_score=["a", "c"], labels=["a", "b"]), "y_score[1] is 'c', want one of 'a', 'b'"),
    (dict(y_true=[0, 1], y_score=[[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], labels=["a", "b"]), "y_score has 3 columns, want one for each of the 2 classes"),
    (dict(y_true=[1, 1], y_score=[0.1, 0.9], task="sorting"), "task is 'sorting', want one of binary"),
    (dict(y_true=[0, 1], y_score=[0.1, 0.9], sample_weight=[1, -1]), "sample_weight has -1, want 0 or more"),
    (dict(y_true=[5, 5], y_score=[5, 5], task="multiclass"), "there is one class, 5"),
    (dict(y_true=[[0, 2]], y_score=[[0.1, 0.2]]), "y_true has 2, want 0 or 1"),
])
def test_refuses(monkeypatch, case, said):
    for without in (False, True):
        if without:
            monkeypatch.setattr(_evaluate, "_numpy", lambda: None)
        with pytest.raises(ValueError) as e:
            mlaas.evaluate(**case)
        assert said in str(e.value)


@pytest.mark.parametrize("library", ["torch", "pandas", "tensorflow"])
def test_takes(library):
    module = pytest.importorskip(library)
    y, s, _ = data(5, k=3)
    want = mlaas.evaluate(y, s)["scores"]
    if library == "torch":
        y, s = module.tensor(y), module.tensor(s, requires_grad=True)
    elif library == "pandas":
        y, s = module.Series(y), module.DataFrame(s)
    else:
        y, s = module.constant(y), module.constant(s)
    assert mlaas.evaluate(y, s)["scores"] == want


def test_columns_of_one_are_flat():
    y, s, _ = data(6, k=2)
    want = mlaas.evaluate(y, s[:, 1])["scores"]
    assert mlaas.evaluate(y[:, None], s[:, 1:])["scores"] == want  # as Keras gives them


def test_thinned_curves_keep_the_area(given):
    y, s, _ = data(7, n=20_000, k=2, ties=False)
    found = mlaas.evaluate(given(y), given(s[:, 1]))
    curve = found["roc"][0]
    assert len(curve["points"]) <= _evaluate.POINTS + 1
    assert curve["points"][0] == [0, 0] and curve["points"][-1] == [1, 1]
    x, h = np.array(curve["points"]).T
    assert abs(np.trapezoid(h, x) - curve["auc"]) < 1e-3
    same(curve["auc"], metrics.roc_auc_score(y, s[:, 1]))


def test_many_classes_stay_small():
    rng = np.random.default_rng(8)
    y = rng.integers(0, 1500, 20_000)
    p = np.where(rng.random(20_000) < 0.7, y, rng.integers(0, 1500, 20_000))
    found = mlaas.evaluate(y, p)
    same(found["scores"]["f1_macro"], metrics.f1_score(y, p, average="macro"))
    same(found["scores"]["mcc"], metrics.matthews_corrcoef(y, p))
    assert len(found["confusion"]["cells"]) == 5000 and found["confusion"]["hidden"] > 0
    assert len(json.dumps(found)) < 1 << 20


def test_many_rows_take_little_time():
    rng = np.random.default_rng(9)
    y = rng.integers(0, 2, 1_000_000)
    s = np.clip(rng.random(1_000_000) * 0.8 + 0.2 * y, 0, 1)
    began = time.process_time()
    found = mlaas.evaluate(y, s)
    assert time.process_time() - began < 5  # some 0.5 s where nothing else runs
    same(found["scores"]["auc"], metrics.roc_auc_score(y, s))


def test_batches():
    y, s, w = data(10, n=50_000, k=3, ties=False)
    want = mlaas.evaluate(y, s, sample_weight=w)
    e = mlaas.Evaluation("test", labels=[0, 1, 2])
    for at in range(0, len(y), 700):
        e.add(y[at:at + 700], s[at:at + 700], w[at:at + 700])
    found = e.close(step=3)
    assert found["name"] == "test" and found["step"] == 3 and found["rows"] == 50_000 and "bins" in found["approximate"]
    assert set(found["scores"]) == set(want["scores"])
    for key, v in want["scores"].items():
        same(found["scores"][key], v, 1e-4 if "auc" in key or "ap_" in key else 1e-9)


def test_batches_of_numbers():
    rng = np.random.default_rng(11)
    t = rng.normal(size=300_000) + 1e4
    s = t + rng.normal(size=300_000) * 0.5
    e = mlaas.Evaluation("test")
    for at in range(0, len(t), 10_000):
        e.add(t[at:at + 10_000], s[at:at + 10_000])
    found = e.result()
    same(found["scores"]["r2"], metrics.r2_score(t, s))
    same(found["scores"]["mae"], metrics.mean_absolute_error(t, s))
    assert "100000 rows" in found["approximate"]
    median = dict(found["residuals"]["quantiles"])[0.5]
    assert abs(median - np.median(t - s)) < 0.02
    with pytest.raises(ValueError, match="y_true.0. is nan"):
        e.add([math.nan], [1.0])
    assert e.rows == 300_000


def test_batches_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="at least two classes"):
        mlaas.Evaluation(labels=["a"])
    e = mlaas.Evaluation(labels=["a", "b"])
    with pytest.raises(ValueError, match="probabilities from 0 to 1"):
        e.add(["a", "b"], [0.1, 1.5])
    with pytest.raises(ValueError, match="no batch was added"):
        e.result()


def test_is_told(program, supervisor):
    program("""if True:
        import mlaas
        mlaas.log({"loss": 1.0}, step=7)
        found = mlaas.evaluate([0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3], name="val")
        assert found["step"] == 7, found["step"]
        mlaas.log({"loss": 0.5})
    """, env={"MLAAS_SOCKET": supervisor.path})
    supervisor.all_said()
    told = supervisor.all("evaluation")
    assert len(told) == 1 and told[0]["name"] == "val" and told[0]["scores"]["accuracy"] == 1.0
    points = {(p[0], p[1]): p[3] for p in supervisor.points()}
    assert points["val/accuracy", 7] == 1.0 and points["loss", 8] == 0.5


def test_by_hand_it_is_written_to_a_file(program, tmp_path):
    program("import mlaas; mlaas.evaluate([1.5, 2.5], [1.0, 2.0], name='val')")
    with open(str(next(tmp_path.glob("mlaas-runs/*/evaluations.jsonl")))) as f:
        assert json.loads(f.readline())["scores"]["mae"] == 0.5
