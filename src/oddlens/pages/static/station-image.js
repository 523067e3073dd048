// Images are drawn on canvases: what an <img> has shown, a browser keeps decoded for long after it is gone.
const LONGEST = 4096; // pixels; phones refuse canvases that are much larger

export async function fetchBitmap(address) { // null: it has expired, or the connection is lost
  try {
    const answer = await fetch(address, { cache: "no-store" });
    return answer.ok ? await createImageBitmap(await answer.blob()) : null;
  } catch { return null; }
}

export function draw(canvas, bitmap) { // takes the bitmap's memory, too; without a bitmap, the canvas is hidden
  const { width, height } = bitmap || { width: 0, height: 0 };
  const scale = Math.min(1, LONGEST / Math.max(1, width, height));
  [canvas.hidden, canvas.width, canvas.height] = [!bitmap, Math.ceil(scale * width), Math.ceil(scale * height)];
  if (!bitmap) return;
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
}
