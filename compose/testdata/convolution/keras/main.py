"""A network that was composed, 28x28x1-14x14x8-14x14x8-10x10x16-5x5x16-32-10, 10,618 parameters, in Keras.

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
EPOCHS = int(mlaas.params.get("epochs", 4))
BATCH_SIZE = int(mlaas.params.get("batch_size", 50))
LEARNING_RATE = float(mlaas.params.get("learning_rate", 0.001))
SEED = int(mlaas.params.get("seed", 0))
VALIDATION_SPLIT = 0.1  # part of the examples that is not learned from


def network():
    """28x28x1-14x14x8-14x14x8-10x10x16-5x5x16-32-10, 10,618 parameters."""
    return keras.Sequential([
        keras.Input(data.SHAPE),
        keras.layers.Conv2D(8, 3, padding="same", activation="relu", strides=2, name="layer1"),  # (14, 14, 8), 80 parameters
        keras.layers.BatchNormalization(momentum=0.9, name="layer2"),  # (14, 14, 8), 32 parameters
        keras.layers.Conv2D(16, 5, padding="valid", activation="linear", name="layer3"),  # (10, 10, 16), 3,216 parameters
        keras.layers.Activation("leaky_relu", name="layer4"),  # (10, 10, 16)
        keras.layers.MaxPooling2D(2, name="layer5"),  # (5, 5, 16)
        keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="layer6"),  # (5, 5, 16), 2,320 parameters
        keras.layers.AveragePooling2D(3, strides=1, name="layer7"),  # (3, 3, 16)
        keras.layers.Flatten(name="layer8"),  # (144,)
        keras.layers.Dropout(0.25, name="layer9"),  # (144,)
        keras.layers.Dense(32, activation="gelu", name="layer10"),  # (32,), 4,640 parameters
        keras.layers.Dense(10, activation="softmax", name="output"),  # (10,), 330 parameters
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
            optimizer=keras.optimizers.Adam(LEARNING_RATE),
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
