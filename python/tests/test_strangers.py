"""Programs in the ways that people write them, run as they are: they print what
they print by plain Python, and what they print is found."""
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from test_frameworks import QUIET, Found, needs, thorough

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "strangers")

# One of the folder strangers. found: by the name of a metric how many values of
# it there are at least, the step of the last, and what the program printed
# right before its number; "" where it prints none.
Stranger = namedtuple("Stranger", "name needs args found parameters models")

STRANGERS = [
    Stranger("trainer", ["torch"], ["--epochs", "3"], {
        "loss": (39, 39, "the last one was"), "lr": (39, 39, ""), "train_loss": (3, 39, "epoch 3: loss="), "val_acc": (3, 39, "Best accuracy:"), "val_loss": (3, 39, ""),
    }, {"lr": 0.01, "epochs": 3, "hidden": 32, "optimizer": "AdamW"}, [738]),
    Stranger("gan", ["torch"], [], {
        "errG": (100, 100, "Loss_G:"), "errD_real": (100, 100, ""), "errD_fake": (100, 100, ""), "loss_d": (5, 100, "Loss_D:"), "lr": (100, 100, ""), "lr_2": (100, 100, ""),
    }, {"optimizer": "Adam"}, [65, 114]),
    Stranger("accumulate", ["torch", "tensorboard"], [], {
        "mse": (5, 20, "mse"), "ppl": (5, 20, "ppl"), "train/loss": (20, 20, "mse"), "epoch/mse": (5, 4, "mse"), "epoch/rmse": (5, 4, ""), "lr/1": (20, 20, ""),
    }, {"momentum": 0.9, "lr": 0.05}, [1664]),
    Stranger("notebook", ["torch", "matplotlib"], [], {
        "loss": (24, 24, "] loss:"), "train_loss": (6, 24, "Train Loss:"), "val_loss": (6, 24, "Val. Loss:"), "train_ppl": (6, 24, "Train PPL:"), "accuracy": (1, 24, ""),
    }, {"optimizer": "NAdam"}, [61]),
    Stranger("trainer_hf", ["transformers"], [], {
        "eval_accuracy": (2, 30, "came to"), "eval_loss": (2, 30, ""), "loss": (6, 30, ""), "lr": (6, 30, ""), "batch/loss": (20, 30, ""),
    }, {"width": 24, "gradient_accumulation_steps": 2, "lr_scheduler_type": "cosine"}, [170]),
    Stranger("search", ["sklearn"], [], {
        "accuracy": (1, None, ""), "test_accuracy": (1, None, "Test accuracy:"), "best_score": (1, None, "Best CV score:"), "roc_auc": (1, None, "RF AUC:"),
        "acc": (5, None, "epoch 4: acc="), "r2": (1, None, "R2 ="), "rmse": (1, None, "RMSE ="),
    }, {"best.clf__C": 10, "cv": 3}, None),
    Stranger("boosting", ["xgboost", "lightgbm", "sklearn"], [], {
        "validation_1/auc": (2, None, "stopped at"), "test_accuracy": (1, None, "test accuracy:"), "cv/test/logloss": (10, None, "over the folds"),
        "valid/auc": (12, None, "and there"), "valid_0/auc": (2, None, ""), "again/logloss": (4, None, ""), "acc": (1, None, "LGBM acc:"),
    }, {"max_depth": 3, "learning_rate": 0.2}, None),
    Stranger("vae", ["tensorflow", "keras"], [], {
        "total_loss": (3, 24, "epoch 2 came to"), "reconstruction_loss": (3, 24, ""), "lr": (5, None, ""), "val_loss": (2, None, ""), "test_loss": (1, None, "evaluated to"),
    }, {"optimizer": "Adam", "epochs": 3}, None),
    Stranger("tape", ["tensorflow", "tensorboard"], ["--steps=40"], {
        "lr": (40, 40, ""), "mean_loss": (4, 39, "Step 39: loss ="), "loss": (4, 40, "Step 39: loss ="),
    }, {"learning_rate": 0.05, "steps": 40, "optimizer": "SGD"}, [4]),
    Stranger("session", ["tensorflow_estimator"], [], {
        "loss": (120, 120, "final loss:"), "lr": (25, None, ""), "rate": (100, 119, ""),
    }, {"max_steps": 120, "lr": 0.1, "optimizer": "MomentumOptimizer"}, [49]),
    Stranger("config", ["jax", "hydra", "optax", "matplotlib"], ["opt.lr=0.05"], {
        "train_loss": (4, 4, "train_loss:"), "lr": (4, 4, ""), "final_test_mse": (1, None, "final test mse:"), "jax/compilations": (1, None, ""),
    }, {"epochs": 4, "opt.lr": 0.05, "opt.name": "adam"}, []),
    Stranger("command", ["click"], ["train", "--lr", "0.2", "6"], {
        "loss": (6, 5, '"loss":'), "mse": (6, 5, ""), "mae": (6, 5, "mae="), "rmse": (1, None, "| rmse |"),
    }, {"lr": 0.2, "n": 6, "api_token": "(not recorded)"}, []),
]


@pytest.mark.parametrize("s", STRANGERS, ids=[s.name for s in STRANGERS])
def test_stranger(s, tmp_path, python, supervisor):
    needs(*s.needs)
    thorough(s.needs[0])
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copy(os.path.join(HERE, s.name + ".py"), str(plain / "main.py"))
    shutil.copy(os.path.join(HERE, s.name + ".py"), str(tmp_path / "main.py"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLAAS_", "PYTHON"))}
    env = dict(QUIET, TF_ENABLE_ONEDNN_OPTS="0", MLAAS_TF1="1" if s.name == "session" else "")
    alone = None
    if s.name != "session":  # TensorFlow 2 alone does not run it
        alone = subprocess.run([sys.executable, "main.py"] + s.args, cwd=str(plain), env=dict(clean, **env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=400)
        assert alone.returncode == 0, alone.stderr
    done = python("main.py", *s.args, env=dict(env, MLAAS_OUTPUT=str(tmp_path / "output")), timeout=400)
    assert "not tracked" not in done.stderr and "mlaas: something" not in done.stderr, done.stderr
    if alone is not None:
        assert unclocked(done.stdout) == unclocked(alone.stdout)
    f = Found(done, supervisor)
    for key, (least, step, name) in s.found.items():
        last = f.last(key)
        assert len(f.series[key]) >= least and step in (None, last[0]), (key, sorted(f.series[key]))
        if name:
            text = re.findall(re.escape(name) + r"\s*(-?[\d.]+(?:e-?\d+)?)", f.out)[-1]
            decimals = len(text.partition("e")[0].partition(".")[2])
            printed = "%.*e" % (decimals, last[1]) if "e" in text else "%.*f" % (decimals, last[1])
            assert printed == text, (key, last, text)
    for key, want in s.parameters.items():
        assert f.params.get(key) == want, (key, f.params)
    if s.models is not None:
        assert [m.get("parameters") for m in f.models] == s.models, f.models


def unclocked(text):
    """Without the lines in which there are times, which differ from run to run."""
    return [line for line in text.splitlines() if not re.search(r"\d\d:\d\d:\d\d|_runtime|_per_second", line)]
