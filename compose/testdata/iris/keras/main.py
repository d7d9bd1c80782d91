"""A network that was composed, 2-16-16-3, 163 parameters, in Keras.

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
EPOCHS = int(mlaas.params.get("epochs", 60))
BATCH_SIZE = int(mlaas.params.get("batch_size", 32))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.1))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.2  # part of the examples that is not learned from


def network():
    """2-16-16-3, 163 parameters."""
    return keras.Sequential([
        keras.Input(data.SHAPE),
        keras.layers.Dense(16, activation="selu", name="layer1"),  # (16,), 48 parameters
        keras.layers.BatchNormalization(momentum=0.9, name="layer2"),  # (16,), 64 parameters
        keras.layers.Dense(3, activation="softmax", name="output"),  # (3,), 51 parameters
    ])


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
            optimizer=keras.optimizers.Adagrad(LEARNING_RATE),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
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
