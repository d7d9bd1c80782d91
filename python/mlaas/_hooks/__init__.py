"""Which module of which framework is hooked, and by what.

A line is: the module of others, our module, the function in it that is called
with the former. Ours are imported when theirs are, so a framework that a
program does not use costs a line here.
"""
from __future__ import annotations

from .. import _hook

_HERE = __name__ + "."

_TRACKED = (
    # TensorFlow, in the style of version 1. tensorflow_core is where 1.14 and 1.15 keep it.
    ("tensorflow.python.client.session", "tensorflow1", "session"),
    ("tensorflow.python.training.optimizer", "tensorflow1", "optimizer"),
    ("tensorflow_core.python.client.session", "tensorflow1", "session"),
    ("tensorflow_core.python.training.optimizer", "tensorflow1", "optimizer"),
    ("tensorflow_estimator.python.estimator.estimator", "tensorflow1", "estimator"),
    # TensorFlow 2: steps of one's own.
    ("tensorflow.python.eager.polymorphic_function.polymorphic_function", "tensorflow2", "function"),
    ("tensorflow.python.eager.def_function", "tensorflow2", "function"),
    ("tensorflow.python.eager.backprop", "tensorflow2", "tape"),
    # Keras 3, Keras 2, tf_keras, and the one inside old TensorFlow.
    ("keras.src.callbacks.callback_list", "keras", "callback_list"),
    ("keras.src.callbacks", "keras", "callback_list"),
    ("keras.callbacks", "keras", "callback_list"),
    ("tf_keras.src.callbacks", "keras", "callback_list"),
    ("tensorflow.python.keras.callbacks", "keras", "callback_list"),
    ("keras.src.optimizers.base_optimizer", "keras", "optimizer"),
    ("keras.src.optimizers.optimizer", "keras", "optimizer"),
    ("keras.src.optimizers.optimizer_v2.optimizer_v2", "keras", "optimizer"),
    ("keras.optimizers.optimizer_v2.optimizer_v2", "keras", "optimizer"),
    ("tf_keras.src.optimizers.optimizer", "keras", "optimizer"),
    ("tensorflow.python.keras.optimizer_v2.optimizer_v2", "keras", "optimizer"),
    ("keras.src.backend.tensorflow.trainer", "keras", "trainer"),
    ("keras.src.backend.torch.trainer", "keras", "trainer"),
    ("keras.src.backend.jax.trainer", "keras", "trainer"),
    ("keras.src.engine.training", "keras", "trainer"),
    ("keras.engine.training", "keras", "trainer"),
    ("tf_keras.src.engine.training", "keras", "trainer"),
    # PyTorch and what trains with it.
    ("torch.optim.optimizer", "pytorch", "optimizer"),
    ("torch._tensor", "pytorch", "tensor"),
    ("torch.amp.grad_scaler", "pytorch", "scaler"),
    ("torch.cuda.amp.grad_scaler", "pytorch", "scaler"),
    ("accelerate.accelerator", "pytorch", "accelerator"),
    ("lightning.pytorch.trainer.trainer", "lightning", "trainer"),
    ("pytorch_lightning.trainer.trainer", "lightning", "trainer"),
    ("transformers.trainer_callback", "transformers", "trainer_callback"),
    # Others.
    ("sklearn.base", "sklearn", "base"),
    ("sklearn.metrics._classification", "sklearn", "metrics"),
    ("sklearn.metrics._ranking", "sklearn", "metrics"),
    ("sklearn.metrics._regression", "sklearn", "metrics"),
    ("xgboost.callback", "xgboost", "callback"),
    ("xgboost.training", "xgboost", "training"),
    ("lightgbm.engine", "lightgbm", "engine"),
    ("jax", "jax", "jax"),
    # What says things by itself.
    ("tensorflow.python.summary.writer.event_file_writer", "tensorboard", "writer"),
    ("tensorboard.summary.writer.event_file_writer", "tensorboard", "writer"),
    ("tensorboardX.event_file_writer", "tensorboard", "writer"),
    ("tensorboard.plugins.scalar.summary_v2", "tensorboard", "scalar"),
    ("tensorflow.python.ops.summary_ops_v2", "events", "writers"),
    ("torch.utils.tensorboard.writer", "tensorboard", "summary_writer"),
    ("tensorboardX.writer", "tensorboard", "summary_writer"),
    ("matplotlib.figure", "matplotlib", "figure"),
    ("matplotlib.pyplot", "matplotlib", "pyplot"),
    ("argparse", "parameters", "argparse"),
    ("absl.flags._flagvalues", "parameters", "absl"),
    ("hydra.core.utils", "parameters", "hydra"),
    ("click.core", "parameters", "click"),
    ("logging", "printed", "logging"),
)


def register() -> None:
    """Hook all of them."""
    for name, home, function in _TRACKED:
        _hook.later(name, _HERE + home, function)
    from . import printed

    printed.install()


def names() -> None:
    """Let code that was written for TensorFlow 1 find its names."""
    _hook.later("tensorflow", _HERE + "tensorflow1", "names")
