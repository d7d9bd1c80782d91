"""A network that was composed, 8x8x1-8x8x8-8-32-10, 730 parameters, in Keras.

Written by mlaas from code.composed, and from then on a program like any other:
it may be changed and run by hand, python main.py, where the package mlaas is
installed and ./data/ has the data.
"""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import keras

import data
import mlaas

# A parameter of the run goes before what is said here: --param epochs=3.
EPOCHS = int(mlaas.params.get("epochs", 8))
BATCH_SIZE = int(mlaas.params.get("batch_size", 32))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.005))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.1  # part of the examples that is not learned from
RATES = {  # learning rates of layers that have their own
    "layer1": 0.002,
    "layer3": 0.003,
    "output": 0.01,
}


def network():
    """8x8x1-8x8x8-8-32-10, 730 parameters."""
    return keras.Sequential([
        keras.Input(data.SHAPE),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="layer1"),  # (8, 8, 8), 80 parameters
        keras.layers.GlobalMaxPooling2D(name="layer2"),  # (8,)
        keras.layers.BatchNormalization(momentum=0.9, name="layer3"),  # (8,), 32 parameters
        keras.layers.Dense(32, activation="tanh", name="layer4"),  # (32,), 288 parameters
        keras.layers.Dense(10, activation="softmax", name="output"),  # (10,), 330 parameters
    ])


@keras.saving.register_keras_serializable(package="composed")
class ByLayer(keras.optimizers.Adam):
    """Adam with a learning rate of its own for some layers."""

    shares = ()  # of each weight that is learned: its learning rate, as a part of the optimizer's

    def update_step(self, gradient, variable, learning_rate):
        share = self.shares[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * share)

    @classmethod
    def learns(cls, model):
        cls.shares = [RATES.get(layer.name, LEARNING_RATE) / LEARNING_RATE
                      for layer in model.layers for _ in layer.trainable_weights]


class Keep(keras.callbacks.Callback):
    """A checkpoint after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if mlaas.is_chief:
            self.model.save("model.keras")
            mlaas.checkpoint("model.keras", step=epoch + 1)


def main():
    keras.utils.set_random_seed(SEED)
    learn, validate, test = data.read(SEED, VALIDATION_SPLIT)
    found = mlaas.resume()
    if found:
        model, done = keras.models.load_model(os.path.join(found.path, "model.keras")), found.step
        print("going on after epoch %d" % done)
    else:
        model, done = network(), 0
        model.compile(
            optimizer=ByLayer(LEARNING_RATE),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
    ByLayer.learns(model)
    mlaas.track(model)  # from here on, fit records what it measures
    model.fit(*learn, batch_size=BATCH_SIZE, epochs=EPOCHS, initial_epoch=done, verbose=2,
              validation_data=validate, callbacks=[Keep()])
    for name, examples in (("validation", validate), ("test", test)):
        if examples is not None:
            loss, accuracy = model.evaluate(*examples, verbose=0)
            mlaas.log({name + "_loss": loss, name + "_accuracy": accuracy})
            print("%s accuracy %.4f" % (name, accuracy), flush=True)
    model.save(os.path.join(mlaas.output, "model.keras"))


if __name__ == "__main__":
    main()
