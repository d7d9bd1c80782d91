import { Button, Group, Menu, Modal, TextInput } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useLocation, useRouter } from "@tanstack/react-router";
import { useState } from "react";
import { answer, api } from "../api/client";
import { newKey } from "../api/key";
import { viewsQuery } from "../api/queries";
import { Failed } from "../shell/Failed";

/** Views of the list that this user has saved: filter, order and columns, kept by the platform. */
export function Views() {
  const cache = useQueryClient();
  const router = useRouter();
  const here = useLocation();
  const search = here.searchStr.replace(/^\?/, "");
  const views = useQuery(viewsQuery);
  const [naming, setNaming] = useState(false);
  const [name, setName] = useState("");
  const again = () => void cache.invalidateQueries({ queryKey: ["views"] });
  const save = useMutation({
    mutationFn: () => answer(api.POST("/api/view", { params: { header: { "Idempotency-Key": newKey() } }, body: { name: name.trim(), page: "/jobs", search } })),
    onSuccess: () => {
      setNaming(false);
      setName("");
      again();
    },
  });
  const remove = useMutation({ mutationFn: (n: string) => answer(api.DELETE("/api/view/{name}", { params: { path: { name: n } } })), onSuccess: again });
  const mine = (views.data ?? []).filter((v) => v.page === "/jobs");
  const now = mine.find((v) => v.search === search);
  return (
    <>
      <Menu position="bottom-end">
        <Menu.Target><Button variant="default">{now ? `View: ${now.name}` : "Views"}</Button></Menu.Target>
        <Menu.Dropdown mah={360} style={{ overflowY: "auto" }}>
          {mine.map((v) => <Menu.Item key={v.name} onClick={() => router.history.push(v.search ? `/jobs?${v.search}` : "/jobs")}>{v.name}</Menu.Item>)}
          {mine.length > 0 && <Menu.Divider />}
          <Menu.Item onClick={() => setNaming(true)}>Save this view…</Menu.Item>
          {now && <Menu.Item onClick={() => remove.mutate(now.name)}>Delete the view {now.name}</Menu.Item>}
        </Menu.Dropdown>
      </Menu>
      {(views.error ?? remove.error) && <Failed error={(views.error ?? remove.error)!} />}
      <Modal opened={naming} onClose={() => setNaming(false)} title="Save this view" closeButtonProps={{ "aria-label": "Close" }}>
        <form onSubmit={(e) => {
          e.preventDefault();
          save.mutate();
        }}>
          <TextInput label="Name" description="What was saved under it before is replaced" required data-autofocus maxLength={100} value={name} onChange={(e) => setName(e.currentTarget.value)} />
          {save.error && <Failed error={save.error} />}
          <Group justify="end" mt="md"><Button type="submit" loading={save.isPending}>Save</Button></Group>
        </form>
      </Modal>
    </>
  );
}
