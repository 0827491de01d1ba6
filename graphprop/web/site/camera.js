// The camera, as pictures.

export async function start(video) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment", width: { ideal: 640 } },
    audio: false,
  });
  video.srcObject = stream;
  await video.play();
  return {
    frame: () => createImageBitmap(video),
    stop: () => {
      for (const track of stream.getTracks()) track.stop();
      video.srcObject = null;
    },
  };
}
