// What a line is about, told from its words: programs write levels in many ways.

/** Regular expressions (RE2) that the platform searches with. */
export const errors = "(?i)\\b(error|critical|fatal|exception)\\b|^Traceback|[A-Za-z](Error|Exception)\\b";
export const warnings = `(?i)\\bwarn(ing)?\\b|[A-Za-z]Warning\\b`;
/** The line that names what was raised in Python: the last of a traceback. */
export const raised = "^[A-Za-z_][A-Za-z0-9_.]*(Error|Exception|Interrupt|Exit)\\b";

const error = /\b(error|critical|fatal|exception)\b|^traceback|[a-z](error|exception)\b/i;
const warning = /\bwarn(ing)?\b|[a-z]warning\b/i;

export function level(text: string): "error" | "warning" | "" {
  return error.test(text) ? "error" : warning.test(text) ? "warning" : "";
}
