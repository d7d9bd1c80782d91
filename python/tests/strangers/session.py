"""TensorFlow 1 as it was written: tf.app, layers, a dataset, a decaying rate,
gradients that are clipped by hand, moving averages, merged summaries."""
import numpy as np
import tensorflow as tf

flags = tf.app.flags
FLAGS = flags.FLAGS
flags.DEFINE_integer("max_steps", 120, "steps")
flags.DEFINE_float("lr", 0.1, "rate")


def main(_):
    rng = np.random.RandomState(0)
    X = rng.rand(500, 4).astype("f")
    data = tf.data.Dataset.from_tensor_slices((X, X.sum(1, keepdims=True))).shuffle(500, seed=1).repeat().batch(25)
    x, y = data.make_one_shot_iterator().get_next()
    with tf.variable_scope("net"):
        hidden = tf.layers.dense(x, 8, activation=tf.nn.relu, kernel_initializer=tf.glorot_uniform_initializer(seed=1))
        out = tf.layers.dense(hidden, 1, kernel_initializer=tf.glorot_uniform_initializer(seed=2))
    loss = tf.losses.mean_squared_error(y, out)
    step = tf.train.get_or_create_global_step()
    rate = tf.train.exponential_decay(FLAGS.lr, step, 50, 0.5, staircase=True)
    optimizer = tf.train.MomentumOptimizer(rate, 0.9)
    clipped = [(tf.clip_by_norm(g, 1.0), v) for g, v in optimizer.compute_gradients(loss) if g is not None]
    train = optimizer.apply_gradients(clipped, global_step=step)
    averages = tf.train.ExponentialMovingAverage(0.9, step)
    with tf.control_dependencies([train]):
        train = averages.apply(tf.trainable_variables())
    tf.summary.scalar("loss", loss)
    tf.summary.scalar("rate", rate)
    merged = tf.summary.merge_all()
    saver, writer = tf.train.Saver(), tf.summary.FileWriter("logs", tf.get_default_graph())
    with tf.Session(config=tf.ConfigProto(allow_soft_placement=True)) as sess:
        sess.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
        for i in range(FLAGS.max_steps):
            _, s, l = sess.run([train, merged, loss])
            writer.add_summary(s, i)
            if i % 20 == 0:
                print("step %d, cost %.5f" % (i, l))
                saver.save(sess, "ck/m", global_step=step)
        print("steps", sess.run(step), "final loss: %.5f" % l)


if __name__ == "__main__":
    tf.app.run()
