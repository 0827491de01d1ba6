// A place to draw on, bright on dark, as networks for digits are trained.

const WIDTH = 0.085; // of a line, relative to the pad

export function pad(canvas, changed) {
  const pen = canvas.getContext("2d");
  const strokes = [];
  let inverted = false;
  let current = null;

  function paint() {
    pen.fillStyle = inverted ? "white" : "black";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.strokeStyle = inverted ? "black" : "white";
    pen.lineWidth = WIDTH * canvas.width;
    pen.lineCap = pen.lineJoin = "round";
    for (const points of strokes) {
      pen.beginPath();
      pen.moveTo(...points[0]);
      for (const point of points) pen.lineTo(...point);
      pen.stroke();
    }
  }

  function placeOf(event) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const x = ((event.clientX - left) / width) * canvas.width;
    return [x, ((event.clientY - top) / height) * canvas.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    current = [placeOf(event)];
    strokes.push(current);
    paint();
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!current) return;
    current.push(placeOf(event));
    paint();
    changed();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, () => (current = null));
  }
  paint();
  return {
    picture: () => createImageBitmap(canvas),
    clear: () => {
      strokes.length = 0;
      paint();
    },
    invert: (dark) => {
      inverted = dark;
      paint();
    },
  };
}
