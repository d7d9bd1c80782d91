"""A search over a pipeline, forests, epochs by hand, and the usual reports."""
import warnings

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, mean_squared_error, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

warnings.simplefilter("ignore")
X, y = make_classification(400, 10, random_state=0)
a, b, c, d = train_test_split(X, y, random_state=0)
pre = ColumnTransformer([("first", StandardScaler(), slice(0, 5)), ("rest", MinMaxScaler(), slice(5, 10))])
search = GridSearchCV(Pipeline([("pre", pre), ("clf", SVC())]), {"clf__C": [0.1, 1, 10], "clf__kernel": ["rbf", "linear"]}, cv=3).fit(a, c)
print("Best params:", search.best_params_)
print("Best CV score: %.4f" % search.best_score_)
guessed = search.predict(b)
print("Test accuracy: {:.4f}".format(accuracy_score(d, guessed)))
print(classification_report(d, guessed))
print(confusion_matrix(d, guessed))
forest = RandomForestClassifier(50, random_state=0).fit(a, c)
print("RF AUC: %.4f" % roc_auc_score(d, forest.predict_proba(b)[:, 1]))
print("of each fold", cross_val_score(forest, X, y, cv=3).round(3))
sgd = SGDClassifier(loss="log_loss", random_state=0)
for epoch in range(5):
    sgd.partial_fit(X, y, classes=[0, 1])
    print(f"epoch {epoch}: acc={sgd.score(X, y):.3f}")
boosted = GradientBoostingRegressor(n_estimators=20, random_state=0).fit(X, X[:, 1] * 2)
p = boosted.predict(X)
print("RMSE = %.4f, R2 = %.4f" % (mean_squared_error(X[:, 1] * 2, p) ** 0.5, r2_score(X[:, 1] * 2, p)))
