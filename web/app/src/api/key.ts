/** A word that nobody else has: whoever sends it twice is answered once. crypto.randomUUID is for pages over https or from this machine alone. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
