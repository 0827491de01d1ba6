"""ONNX files in a browser: onnxruntime-web, a page that explains with it, a browser to check it."""
