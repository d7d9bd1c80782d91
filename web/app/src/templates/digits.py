"""Handwritten digits, 8 by 8 pixels, that come with scikit-learn: a small network, seconds on a CPU."""
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import mlaas

epochs = int(mlaas.config.get("epochs", 30))
digits = load_digits()
train, test, labels, test_labels = train_test_split(digits.data / 16, digits.target, test_size=0.25, random_state=0)

model = MLPClassifier((64,), random_state=0)
for epoch in range(epochs):
    order = np.random.RandomState(epoch).permutation(len(train))
    model.partial_fit(train[order], labels[order], classes=np.arange(10))
    accuracy = model.score(test, test_labels)
    mlaas.log({"loss": model.loss_, "test_accuracy": accuracy}, step=epoch + 1)
    print("epoch %d of %d: loss %.3f, test accuracy %.4f" % (epoch + 1, epochs, model.loss_, accuracy), flush=True)
