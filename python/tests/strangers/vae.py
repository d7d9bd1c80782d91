"""A Keras model with a train_step of its own, and one with two outputs."""
import numpy as np
import tensorflow as tf
from tensorflow import keras

keras.utils.set_random_seed(0)


class Autoencoder(keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = keras.layers.Dense(4), keras.layers.Dense(8)
        self.total, self.rebuilt = keras.metrics.Mean(name="total_loss"), keras.metrics.Mean(name="reconstruction_loss")

    @property
    def metrics(self):
        return [self.total, self.rebuilt]

    def call(self, x):
        return self.decoder(self.encoder(x))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            rebuilt = tf.reduce_mean((self(data, training=True) - data) ** 2)
            loss = rebuilt + 0.1 * tf.reduce_mean(self.encoder(data) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        self.total.update_state(loss)
        self.rebuilt.update_state(rebuilt)
        return {m.name: m.result() for m in self.metrics}


class Said(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        print("epoch %d came to %.4f" % (epoch, logs["total_loss"]))


x = np.random.rand(256, 8).astype("float32")
model = Autoencoder()
model.compile(optimizer=keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)))
model.fit(x, epochs=3, batch_size=32, verbose=0, callbacks=[Said(), keras.callbacks.CSVLogger("log.csv"), keras.callbacks.EarlyStopping("total_loss", patience=2, mode="min")])
shown = keras.Input((8,))
hidden = keras.layers.Dense(16, activation="relu")(shown)
two = keras.Model(shown, {"p": keras.layers.Dense(1, name="p")(hidden), "q": keras.layers.Dense(1, activation="sigmoid", name="q")(hidden)})
two.compile("sgd", loss={"p": "mse", "q": "binary_crossentropy"}, metrics={"q": ["accuracy"]})
answers = {"p": x.sum(1), "q": (x[:, 0] > 0.5).astype("float32")}
two.fit(x, answers, validation_split=0.2, epochs=2, verbose=0)
print("evaluated to %.5f" % two.evaluate(x, answers, return_dict=True, verbose=0)["loss"])
print("parameters %d" % two.count_params())
