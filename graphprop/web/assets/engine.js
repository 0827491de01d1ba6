// Runs an explainer.onnx by onnxruntime-web. The page and graphprop's check share this file.

// Load onnxruntime-web from its files' addresses: {script, mjs, wasm}.
export async function loadRuntime(files, threads) {
  const ort = await import(files.script);
  ort.env.wasm.wasmPaths = { mjs: files.mjs, wasm: files.wasm };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return ort;
}

// Open a model: its bytes, and those of the files beside it by name; on "wasm" or "webgpu", where
// the nodes that WebGPU can't compute run on the processor.
export async function openSession(ort, model, beside, provider, onProcessor = []) {
  const externalData = Object.entries(beside).map(([path, data]) => ({ path, data }));
  const gpu = { name: "webgpu", forceCpuNodeNames: onProcessor };
  return ort.InferenceSession.create(model, {
    executionProviders: provider === "wasm" ? ["wasm"] : [gpu, "wasm"],
    graphOptimizationLevel: "all",
    logSeverityLevel: 3, // errors: that some nodes run on the processor is meant to be
    externalData,
  });
}

// Run it on tensors by name; returns values by name, each {type, dims, data}.
export async function runSession(session, feeds, names) {
  const found = await session.run(feeds, names);
  const values = {};
  for (const name of names) {
    const tensor = found[name];
    const data = tensor.location === "cpu" ? tensor.data : await tensor.getData();
    values[name] = { type: tensor.type, dims: [...tensor.dims], data };
  }
  return values;
}

export async function fetchBytes(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} can't be loaded: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}
