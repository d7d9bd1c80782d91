import { Button, Group, Modal, Text } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { answer, api, type Job } from "../api/client";
import { restoreJob } from "../jobs/actions";
import { Failed } from "../shell/Failed";

/** Asks before a job is deleted, stops what of it runs, and offers to bring it back. */
export function Delete({ job, open, close }: { job: Job; open: boolean; close: () => void }) {
  const navigate = useNavigate();
  const cache = useQueryClient();
  const remove = useMutation({
    mutationFn: (force: boolean) => answer(api.DELETE("/api/job/{id}", { params: { path: { id: job.id }, query: { force } } })),
    onSuccess: () => {
      close();
      void cache.invalidateQueries({ queryKey: ["jobs"] });
      const id = notifications.show({
        autoClose: 20_000, title: `${job.name} is deleted`, closeButtonProps: { "aria-label": "Close" },
        message: <Group gap="xs"><Text size="sm">For 7 days it can be restored.</Text><Button size="compact-xs" variant="default" onClick={() => { notifications.hide(id); back.mutate(); }}>Undo</Button></Group>,
      });
      void navigate({ to: "/jobs", search: {} });
    },
  });
  const back = useMutation({
    mutationFn: () => restoreJob(job.id),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: ["job"] });
      void navigate({ to: "/jobs/$job/$tab", params: { job: job.name, tab: "overview" }, search: {} });
    },
    onError: (e) => notifications.show({ color: "red", title: "It was not restored", message: e.message, autoClose: 10_000 }),
  });
  const live = remove.error && "status" in remove.error && remove.error.status === 409;
  return (
    <Modal opened={open} onClose={close} title={`Delete ${job.name}?`} closeButtonProps={{ "aria-label": "Close" }}>
      <Text size="sm">Its versions, runs and results go with it. For 7 days it can be restored; its name is free at once.</Text>
      {remove.error && <Failed error={remove.error} />}
      <Group mt="md">
        <Button color="red" variant="outline" loading={remove.isPending} onClick={() => remove.mutate(!!live)}>{live ? "Stop its run and delete" : "Delete"}</Button>
        <Button variant="default" data-autofocus onClick={close}>Keep it</Button>
      </Group>
    </Modal>
  );
}
