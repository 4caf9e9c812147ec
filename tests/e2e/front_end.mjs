// Runs the front-end function of the solution overview as a page would: its source comes on the command line,
// and a page's names (fetch with relative addresses, setStatus, setDiagram, setError, user) are made here.
const [, , host, apiKey, prompt, source] = process.argv;
const say = (kind, value) => console.log(JSON.stringify({ kind, value }));

globalThis.user = { apiKey };
globalThis.setStatus = (text) => say('status', text);
globalThis.setDiagram = (text) => {
  say('diagram', text);
  process.exit(0);
};
globalThis.setError = (text) => {
  say('error', text);
  process.exit(0);
};
const plainFetch = globalThis.fetch;
globalThis.fetch = async (address, options) => {
  const response = await plainFetch(new URL(address, `http://${host}`), options);
  say('answer', { status: response.status, body: await response.clone().json() });
  return response;
};

await (0, eval)(`(${source})`)(prompt);
