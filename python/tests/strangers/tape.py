"""absl flags and app, a tf.Module, a tf.function that returns nothing, a metric
object, tf.summary."""
import tensorflow as tf
from absl import app, flags

flags.DEFINE_float("learning_rate", 0.05, "rate")
flags.DEFINE_integer("steps", 60, "steps")
FLAGS = flags.FLAGS


class Linear(tf.Module):
    def __init__(self):
        self.w = tf.Variable(tf.random.stateless_normal((3, 1), (1, 2)))
        self.b = tf.Variable(0.0)

    def __call__(self, x):
        return x @ self.w + self.b


def main(_):
    model, optimizer = Linear(), tf.keras.optimizers.SGD(FLAGS.learning_rate)
    writer, mean = tf.summary.create_file_writer("logs"), tf.keras.metrics.Mean()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables))
        mean(loss)

    for i in range(FLAGS.steps):
        x = tf.random.stateless_normal((16, 3), (i, 1))
        step(x, tf.reduce_sum(x, 1, keepdims=True))
        if i % 10 == 9:
            with writer.as_default():
                tf.summary.scalar("mean_loss", mean.result(), step=i)
            print(f"Step {i}: loss = {mean.result():.5f}")
            mean.reset_state()
    tf.train.Checkpoint(model=model, optimizer=optimizer).save("ckpt/x")


if __name__ == "__main__":
    app.run(main)
