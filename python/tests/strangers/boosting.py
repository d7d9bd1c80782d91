"""XGBoost and LightGBM in each way that they are called: estimators that stop
early, cv, train, and train that goes on."""
import warnings

import lightgbm as lgb
import xgboost as xgb
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

warnings.simplefilter("ignore")
X, y = make_classification(600, 12, random_state=1)
a, b, c, d = train_test_split(X, y, random_state=1)
clf = xgb.XGBClassifier(n_estimators=30, max_depth=3, learning_rate=0.2, eval_metric=["logloss", "auc"], early_stopping_rounds=5)
clf.fit(a, c, eval_set=[(a, c), (b, d)], verbose=False)
print("stopped at %.5f" % clf.evals_result()["validation_1"]["auc"][-1])
print(f"test accuracy: {clf.score(b, d):.4f}")
data = xgb.DMatrix(a, c)
cv = xgb.cv({"max_depth": 3, "objective": "binary:logistic"}, data, 10, nfold=3, metrics="logloss")
print("over the folds %.5f" % cv["test-logloss-mean"].iloc[-1])
booster = xgb.train({"objective": "binary:logistic"}, data, num_boost_round=8)
booster = xgb.train({"objective": "binary:logistic"}, data, num_boost_round=4, xgb_model=booster, evals=[(data, "again")], verbose_eval=False)
print("rounds", booster.num_boosted_rounds())
found = lgb.cv({"objective": "binary", "metric": ["auc", "binary_logloss"], "verbose": -1, "num_threads": 1}, lgb.Dataset(a, c), 12, nfold=3)
print("and there %.5f" % found["valid auc-mean"][-1])
model = lgb.LGBMClassifier(n_estimators=25, verbose=-1, n_jobs=1).fit(a, c, eval_set=[(b, d)], eval_metric="auc", callbacks=[lgb.early_stopping(5, verbose=False), lgb.log_evaluation(10)])
print("LGBM acc: %.3f" % model.score(b, d))
