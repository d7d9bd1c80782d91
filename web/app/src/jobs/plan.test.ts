import { expect, test } from "vitest";
import { blank, plan } from "./plan";

const why = (p: ReturnType<typeof plan>, what: string) => p.rows.find((r) => r.what === what);

test("nothing said: defaults, each with its reason", () => {
  const p = plan({ ...blank, name: "a" }, { "main.py": "print(1)" }, {});
  expect(p.spec).toEqual({ name: "a", environment: { framework: "python" }, roles: { worker: { replicas: 1 } }, execution: {} });
  expect(why(p, "framework")!.why).toBe("none of the frameworks is imported");
  expect(why(p, "command")!.value).toBe("python main.py");
});

test("the framework is read from the imports, and what is built on another comes first", () => {
  const p = plan(blank, { "train.py": "import numpy\nimport tensorflow as tf\nfrom keras import layers\n" }, {});
  expect(why(p, "framework")).toEqual({ what: "framework", value: "keras", why: "train.py:3 imports keras" });
});

test("any amount goes to the API as it was written, and to the command line", () => {
  const p = plan({ ...blank, name: "a", workers: "2-8", ps: "1", cpu: "1.5", memory: "1.5Gi", gpu: "h200:2", parameters: "lr=0.01\nname=two words\nflag=true", data: "mnist=dataset:mnist" }, {}, {});
  expect(p.spec.roles).toEqual({ worker: { replicas: "2-8", cpu: "1.5", memory: "1.5Gi", gpu: "h200:2" }, ps: { replicas: 1, cpu: "1.5", memory: "1.5Gi" } });
  expect(p.spec.execution!.parameters).toEqual({ lr: 0.01, name: "two words", flag: true });
  expect(p.spec.data).toEqual([{ name: "mnist", source: "dataset:mnist" }]);
  expect(p.command).toBe("mlaas run FOLDER --name a --workers 2-8 --ps 1 --cpu 1.5 --mem 1.5Gi --gpu h200:2 --param lr=0.01 --param 'name=two words' --param flag=true --data mnist=dataset:mnist");
});

test("what a job begins from stays unless something else is said", () => {
  const from = { environment: { framework: "keras" }, roles: { worker: { replicas: { min: 1, max: 4 } as never }, ps: { replicas: 1 as never } } };
  const p = plan({ ...blank, ps: "0" }, {}, from);
  expect(why(p, "worker")).toEqual({ what: "worker", value: "1-4", why: "what you begin from" });
  expect(p.spec.roles).not.toHaveProperty("ps");
  expect(from.roles).toHaveProperty("ps"); // another look at it finds it as it was
});
