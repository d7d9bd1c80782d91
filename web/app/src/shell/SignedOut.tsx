import { Code, Stack, Text, Title } from "@mantine/core";

export function SignedOut() {
  return (
    <Stack maw={560}>
      <Title order={1} size="h2">This browser is not signed in</Title>
      <Text>Open the link that <Code>mlaas up</Code> printed. It works once; this prints a new one:</Text>
      <pre className="code">mlaas session login</pre>
      <Text>Then come back to this address.</Text>
    </Stack>
  );
}
