import { Stack, Text, Title } from "@mantine/core";
import { To } from "../shell/links";

export function Deployments() {
  return (
    <Stack maw={620}>
      <Title order={1} size="h2">Deployments</Title>
      <Text>This version of mlaas cannot serve models yet. What a run leaves, its checkpoints and files, is under Model & deployments of its <To to="/jobs">job</To>, to be downloaded and served elsewhere.</Text>
    </Stack>
  );
}
