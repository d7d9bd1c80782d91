import { expect, test } from "vitest";
import { blank, each, formOf, specOf, twin } from "./plan";

test("nothing said is nothing sent: what is decided then, the platform says", () => {
  expect(specOf({ ...blank, name: "a" }, {})).toEqual({ name: "a" });
});

test("any amount goes to the API as it was written, and to the command line", () => {
  const form = { ...blank, name: "a", workers: "2-8", ps: "1", cpu: "1.5", memory: "worker=1.5Gi,ps=512Mi", disk: "20Gi", gpu: "h200:2", parameters: "lr=0.01\nname=two words\nflag=true", data: "mnist=dataset:mnist", mode: "annotation" };
  const spec = specOf(form, {});
  expect(spec.roles).toEqual({ worker: { replicas: "2-8", cpu: "1.5", memory: "1.5Gi", disk: "20Gi", gpu: "h200:2" }, ps: { replicas: 1, cpu: "1.5", memory: "512Mi", disk: "20Gi" } });
  expect(spec.execution!.parameters).toEqual({ lr: 0.01, name: "two words", flag: true });
  expect(spec.data).toEqual([{ name: "mnist", source: "dataset:mnist" }]);
  expect(spec.code).toEqual({ mode: "annotation" });
  expect(twin(form)).toBe("mlaas run FOLDER --name a --workers 2-8 --ps 1 --cpu 1.5 --mem worker=1.5Gi,ps=512Mi --disk 20Gi --gpu h200:2 --set code.mode=annotation --param lr=0.01 --param 'name=two words' --param flag=true --data mnist=dataset:mnist");
  expect(each("2", ["worker"])).toEqual({ worker: "2" });
  expect(each("", ["worker"])).toEqual({});
});

test("what a job begins from stays unless something else is said", () => {
  const from = { environment: { framework: "keras", lock: "sha256:a" }, roles: { worker: { replicas: { min: 1, max: 4 } as never }, ps: { replicas: 1 as never } } };
  const spec = specOf({ ...blank, ps: "0" }, from as never);
  expect(spec.roles).toEqual({ worker: { replicas: { min: 1, max: 4 } } });
  expect(spec.environment).toEqual({ framework: "keras", lock: "sha256:a" });
  expect(specOf({ ...blank, framework: "pytorch" }, from as never).environment).toEqual({ framework: "pytorch" }); // a lock is of its framework
  expect(from.roles).toHaveProperty("ps"); // another look at it finds it as it was
});

test("a job file becomes a form that says the same", () => {
  const spec = {
    name: "a", environment: { framework: "keras", packages: ["numpy==2.1", "pandas"], variables: { A: "1" } },
    roles: { worker: { replicas: "2-8", cpu: "1.5", gpu: { count: 1, kind: "a100" } }, ps: { replicas: 1, memory: "1Gi" } },
    execution: { command: ["python", "train.py"], parameters: { lr: 0.1, name: "7" }, timeout: "2h" }, data: [{ name: "mnist", source: "dataset:mnist" }], code: { mode: "annotation" }, labels: { team: "x" },
  };
  const { form, from } = formOf(spec as never);
  expect(form).toEqual({ ...blank, name: "a", framework: "keras", packages: "numpy==2.1 pandas", workers: "2-8", ps: "1", cpu: "worker=1.5", memory: "ps=1Gi", parameters: "lr=0.1", data: "mnist=dataset:mnist", command: "python train.py", mode: "annotation" });
  expect(specOf(form, from)).toEqual(spec);
});
