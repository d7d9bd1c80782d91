// What a job can begin from. The larger examples are those of the repository.
import keras from "../../../../examples/mnist-single/keras.yaml?raw";
import mnist from "../../../../examples/mnist-single/mnist.py?raw";
import mnistKeras from "../../../../examples/mnist-single/mnist_keras.py?raw";
import mnistSklearn from "../../../../examples/mnist-single/mnist_sklearn.py?raw";
import psMain from "../../../../examples/mnist-ps/main.py?raw";
import psMnist from "../../../../examples/mnist-ps/mnist.py?raw";
import type { JobSpec } from "../api/client";
import digits from "../templates/digits.py?raw";
import hello from "../templates/hello.py?raw";

export type Template = {
  id: string;
  name: string;
  what: string;
  spec: Partial<JobSpec>;
  files: Record<string, string>;
  /** A dataset that must be there. */
  data?: string;
};

const single: Partial<JobSpec> = { data: [{ name: "mnist", source: "dataset:mnist" }], evaluation: { task: "classification", metric: "test_accuracy", direction: "max" } };

export const templates: Template[] = [
  { id: "digits", name: "Handwritten digits", what: "A small network in scikit-learn. Its data comes with the library; some seconds.", spec: { environment: { framework: "scikit-learn" }, evaluation: { metric: "test_accuracy", direction: "max" } }, files: { "main.py": digits } },
  { id: "hello", name: "The smallest job", what: "Plain Python that prints and measures for six seconds. Nothing is installed.", spec: {}, files: { "main.py": hello } },
  { id: "mnist-sklearn", name: "MNIST, scikit-learn", what: "784-500-10 on one machine.", data: "mnist", spec: { ...single, environment: { framework: "scikit-learn" }, execution: { command: ["python", "mnist_sklearn.py"], parameters: { epochs: 3 } } }, files: { "mnist.py": mnist, "mnist_sklearn.py": mnistSklearn } },
  { id: "mnist-keras", name: "MNIST, Keras", what: "The same in Keras, about a minute on a CPU.", data: "mnist", spec: { ...single, environment: { framework: "keras" }, execution: { command: ["python", "mnist_keras.py"], parameters: { epochs: 3 } } }, files: { "mnist.py": mnist, "mnist_keras.py": mnistKeras, "keras.yaml": keras } },
  { id: "mnist-ps", name: "MNIST, 1 parameter server and 2 workers", what: "The paper's example: TensorFlow over several replicas.", data: "mnist", spec: { environment: { framework: "tensorflow" }, roles: { ps: { replicas: 1 }, worker: { replicas: 2 } }, data: [{ name: "mnist", source: "dataset:mnist" }] }, files: { "main.py": psMain, "mnist.py": psMnist } },
];
