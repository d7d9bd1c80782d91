"""MNIST in Keras, on one machine: 784-500-10, about a minute on a CPU."""
import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import mlaas
import mnist

p = argparse.ArgumentParser()
p.add_argument("--data", help="folder of the four IDX files; default: the job's data named mnist")
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--batch", type=int, default=50)
p.add_argument("--lr", type=float, default=0.001)
a = p.parse_args()

(images, labels), (test_images, test_labels) = mnist.read(a.data or mlaas.data("mnist"))
images, test_images = images.astype(np.float32) / 255.0, test_images.astype(np.float32) / 255.0

found = mlaas.resume()
if found:
    model, done = keras.models.load_model(os.path.join(found.path, "model.keras")), found.step
    print("going on after epoch %d" % done)
else:
    model, done = keras.Sequential([
        keras.Input((784,)),
        keras.layers.Dense(500, activation="relu"),
        keras.layers.Dense(10),
    ]), 0
    model.compile(
        optimizer=keras.optimizers.Adam(a.lr),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
mlaas.track(model)  # from here on, fit records loss and accuracy


class Keep(keras.callbacks.Callback):
    """A checkpoint after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.save("model.keras")
        mlaas.checkpoint("model.keras", step=epoch + 1)


model.fit(images, labels, batch_size=a.batch, epochs=a.epochs, initial_epoch=done, verbose=2,
          validation_data=(test_images, test_labels), callbacks=[Keep()])
loss, accuracy = model.evaluate(test_images, test_labels, verbose=0)
mlaas.log({"test_accuracy": accuracy, "test_loss": loss})
model.save(os.path.join(mlaas.output, "model.keras"))
print("test accuracy %.4f" % accuracy)
