import { Modal, Switch, Table, Text } from "@mantine/core";
import { useLocalStorage } from "@mantine/hooks";

/** Whether keys alone do something: people who speak to their computer switch it off (WCAG 2.1.4). */
export function useShortcuts() {
  const [on, set] = useLocalStorage({ key: "mlaas-shortcuts", defaultValue: true });
  return { on, set };
}

const keys: [string, string][] = [
  ["Ctrl K", "search pages, jobs and what can be done"],
  ["g j · g p · g c · g q · g s · g d", "go to jobs, deployments, clusters, queue, settings, docs"],
  ["n", "new job"],
  ["/", "filter a list, or search a log or the docs"],
  ["j · k", "the next or previous job of the list"],
  ["x", "select it"],
  ["Enter", "open it"],
  ["1 … 5", "tabs of a job"],
  ["Ctrl S", "save the code as a new version"],
  ["Ctrl Enter", "save the code and run it"],
  ["f", "follow the log"],
  ["e", "the first error of the log"],
  ["?", "this list"],
];

export function Shortcuts({ open, close }: { open: boolean; close: () => void }) {
  const { on, set } = useShortcuts();
  return (
    <Modal opened={open} onClose={close} title="Keys" size="lg" closeButtonProps={{ "aria-label": "Close" }}>
      <Table>
        <Table.Tbody>
          {keys.map(([k, what]) => (
            <Table.Tr key={k}><Table.Th scope="row" style={{ whiteSpace: "nowrap" }}>{k.split(" · ").map((one, i) => <span key={one}>{i > 0 && " "}<kbd>{one}</kbd></span>)}</Table.Th><Table.Td>{what}</Table.Td></Table.Tr>
          ))}
        </Table.Tbody>
      </Table>
      <Switch mt="md" checked={on} onChange={(e) => set(e.currentTarget.checked)} label="Keys without Ctrl do something" />
      <Text size="sm" c="dimmed" mt={4}>They never do while you type into a field.</Text>
    </Modal>
  );
}
