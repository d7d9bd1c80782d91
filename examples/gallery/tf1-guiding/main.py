"""Trains with the functions of model.py, as in figure 4.5 of "Machine Learning
as a Service on Nimbus": a graph and a session of TensorFlow 1.

    python main.py [--steps 1000] [--checkpoint_steps 100]

On the platform this file is the platform's own: change model.py.
"""
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported

import tensorflow.compat.v1 as tf

from workflow import Workflow


def main():
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.disable_v2_behavior()
    work = Workflow()
    model = work.define_model()
    env = work.setup_train(model)
    saver = tf.train.Saver(max_to_keep=1)
    with tf.Session() as session:  # tf.get_default_session() in model.py
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer(), tf.tables_initializer()])
        if work.found:
            saver.restore(session, os.path.join(work.restore(env), "model"))
        work.track(model, session)
        going = True
        while going:
            going = work.step_train(model, env)
            if work.due() or not going:
                with work.checkpoint(env) as folder:
                    saver.save(session, os.path.join(folder, "model"))
        work.evaluate(model, env)
        work.save(model, env, lambda folder: saver.save(session, os.path.join(folder, "model")))


if __name__ == "__main__":
    main()
