"""What a hook costs by itself: a million calls of each, around a function that
does nothing, in microseconds of CPU a call."""
import sys
import time

sys.path.insert(0, sys.argv[1])
from mlaas import _hook, _watch
from mlaas._hooks import keras, pytorch, tensorflow1

N = 1_000_000
_hook.installed = True


class Graph:
    def get_collection(self, name):
        return []


class Operation:
    type, inputs, control_inputs = "ApplyGradientDescent", (), ()

    def __init__(self, graph):
        self.graph, self.name = graph, "train"


class Session:
    graph = Graph()

    def run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        return None


class Client:
    BaseSession = Session


class Loss:
    requires_grad = False

    def numel(self):
        return 1

    def detach(self):
        return 0.5

    def backward(self):
        pass


class Torch:
    Tensor = Loss


class Optimizer:
    param_groups = [{"lr": 0.1, "params": []}]


class CallbackList:
    model = None

    def on_train_begin(self, logs=None):
        pass

    def on_train_batch_end(self, batch, logs=None):
        pass

    on_epoch_end = on_train_batch_end
    on_train_end = on_test_end = on_train_begin


def cost(call):
    call()
    began = time.process_time()
    for _ in range(N):
        call()
    return (time.process_time() - began) / N * 1e6


train = Operation(Session.graph)
session, loss, optimizer, callbacks, logs = Session(), Loss(), Optimizer(), CallbackList(), {"loss": 0.5}


# As in a program, the code that calls backward is long.
exec("""def torch_step():
    loss.backward()
    after(optimizer, (), {})
    if loss is None:
""" + "".join("        print(%d.5, 'line %d')\n" % (i, i) for i in range(200)))


bare, after = {}, lambda *_: None
bare["tf1"] = cost(lambda: session.run(train))
bare["torch"] = cost(torch_step)
bare["keras"] = cost(lambda: callbacks.on_train_batch_end(1, logs))
tensorflow1.session(Client)
pytorch.tensor(Torch)
pytorch._watched, after = True, pytorch._after_step
tf1, torch = cost(lambda: session.run(train)), cost(torch_step)


class Lists:
    pass


Lists.CallbackList = CallbackList
keras.callback_list(Lists)
callbacks.on_train_begin()
found = {"tf1": tf1, "torch": torch, "keras": cost(lambda: callbacks.on_train_batch_end(1, logs))}
for name, us in found.items():
    print("hook", name, us - bare[name])
