import { Anchor, List, Stack, Text, Title } from "@mantine/core";
import { To } from "../shell/links";

/** Where one reads on. */
export function Docs() {
  return (
    <Stack maw={720}>
      <Title order={1} size="h2">Docs</Title>
      <Text>The documentation is in the folder docs of the sources that this binary was built from: tutorials, how-to, reference, and why things are as they are. It is not in the binary yet; this is:</Text>
      <List spacing="xs">
        <List.Item><To to="/docs/api">The REST API</To>: every route, with what it takes and gives</List.Item>
        <List.Item><Anchor href="/openapi.json" underline="always">The same as an OpenAPI document</Anchor>, or <Anchor href="/openapi.yaml" underline="always">as YAML</Anchor></List.Item>
        <List.Item>Each command says what it does, with examples: <code>mlaas --help</code></List.Item>
      </List>
    </Stack>
  );
}
