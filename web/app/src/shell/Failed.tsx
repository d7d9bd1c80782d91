import { Alert, Button, Code, Group, Stack, Text, Title } from "@mantine/core";
import { Problem } from "../api/client";
import { To } from "./links";

/** What went wrong, in the place of what was to be shown; the rest of the page stays. */
export function Failed({ error, again }: { error: Error; again?: () => void }) {
  const p = error instanceof Problem ? error : undefined;
  return (
    <Alert color="red" variant="outline" title={p?.title ?? "This part of the page failed"} role="alert" my="sm">
      <Stack gap="xs">
        <Text size="sm">{error.message}</Text>
        {p?.status === 403 && <Text size="sm">One who runs the platform may do it.</Text>}
        {p?.request && <Text size="xs" c="dimmed">In the log of the platform: <Code>{p.request}</Code></Text>}
        {again && <Group><Button size="xs" variant="default" onClick={again}>Try again</Button></Group>}
      </Stack>
    </Alert>
  );
}

export function Missing() {
  return (
    <Stack>
      <Title order={1} size="h2">There is nothing here</Title>
      <Text>This address leads to no page. <To to="/jobs">All jobs</To>, or press <kbd>Ctrl</kbd> <kbd>K</kbd> to search.</Text>
    </Stack>
  );
}
