// Runs the batches of a check, as job.json lists them, and sends back what they give.

import { fetchBytes, loadRuntime, openSession, runSession } from "./engine.js";

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

async function send(address, body) {
  const response = await fetch(address, { method: "POST", body });
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
}

// A file of values: the length of a header, the header as JSON, and the bytes of each value.
function packed(values) {
  const header = Object.entries(values).map(([name, { type, dims, data }]) => {
    return { name, type, dims, bytes: data.byteLength };
  });
  const text = new TextEncoder().encode(JSON.stringify(header));
  return new Blob([new Uint32Array([text.length]), text, ...Object.values(values).map((v) => v.data)]);
}

async function main() {
  const job = await (await fetch("job.json")).json();
  const ort = await loadRuntime(job.runtime, 1);
  const beside = {};
  for (const [name, address] of Object.entries(job.beside)) beside[name] = await fetchBytes(address);
  const model = await fetchBytes(job.model);
  const session = await openSession(ort, model, beside, job.provider, job.on_processor);
  for (const [index, feeds] of job.batches.entries()) {
    const tensors = {};
    for (const [name, { type, dims, address }] of Object.entries(feeds)) {
      const bytes = await fetchBytes(address);
      tensors[name] = new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
    }
    await send(`result/${index}`, packed(await runSession(session, tensors, job.names)));
  }
}

main().then(
  () => send("done", ""),
  (error) => send("failed", String(error?.message ?? error)),
);
