"""MNIST in scikit-learn, on one machine: the same 784-500-10 network."""
import argparse
import os
import pickle

import numpy as np
from sklearn.neural_network import MLPClassifier

import mlaas
import mnist

p = argparse.ArgumentParser()
p.add_argument("--data", help="folder of the four IDX files; default: the job's data named mnist")
p.add_argument("--epochs", type=int, default=3)
p.add_argument("--batch", type=int, default=200)
a = p.parse_args()

(images, labels), (test_images, test_labels) = mnist.read(a.data or mlaas.data("mnist"))
images, test_images = images.astype(np.float32) / 255.0, test_images.astype(np.float32) / 255.0

done, found = 0, mlaas.resume()
if found:
    with open(os.path.join(found.path, "model.pickle"), "rb") as f:
        model = pickle.load(f)
    done = found.step
    print("going on after epoch %d" % done)
else:
    model = MLPClassifier((500,), batch_size=a.batch, random_state=0)
mlaas.track(model)  # from here on, each partial_fit records its time and loss

order = np.random.RandomState(done)
for epoch in range(done, a.epochs):
    some = order.permutation(len(images))
    for part in np.array_split(some, 10):  # so that something is seen while it trains
        model.partial_fit(images[part], labels[part], classes=np.arange(10))
    score = model.score(test_images, test_labels)
    mlaas.log({"test_accuracy": score, "epoch": epoch + 1}, step=(epoch + 1) * 10)
    with open("model.pickle", "wb") as f:
        pickle.dump(model, f)
    mlaas.checkpoint("model.pickle", step=epoch + 1)
    print("epoch %d of %d: loss %.3f, test accuracy %.4f" % (epoch + 1, a.epochs, model.loss_, score), flush=True)
with open(os.path.join(mlaas.output, "model.pickle"), "wb") as f:
    pickle.dump(model, f)
print("test accuracy %.4f" % model.score(test_images, test_labels))
