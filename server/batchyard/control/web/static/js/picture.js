// Pictures as a network wants them: raw pixels of its input's size.

const DIGIT = 20 / 28; // as MNIST has it: a digit fills a box of 20 in a picture of 28, its mass in the middle

/** [channels, height, width] bytes out of a canvas context's pixels. */
export function planes(pixels, channels) {
  const count = pixels.length / 4;
  const out = new Uint8Array(channels * count);
  for (let i = 0; i < count; i += 1) {
    const [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
    if (channels === 1) out[i] = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    else [out[i], out[count + i], out[2 * count + i]] = [r, g, b];
  }
  return out;
}

/** Light and dark exchanged. */
export const inverted = (bytes) => bytes.map((value) => 255 - value);

/** How light it is, 0 to 255. */
export const lightness = (bytes) => bytes.reduce((sum, value) => sum + value, 0) / bytes.length;

/** A picture of any size, drawn to fit. */
export function fitted(source, [channels, height, width]) {
  const ink = surface(width, height);
  ink.drawImage(source, 0, 0, width, height);
  return planes(ink.getImageData(0, 0, width, height).data, channels);
}

/** A drawing in white on black, brought to the size and place that digits have in MNIST; null where nothing is drawn. */
export function centred(canvas, [channels, height, width]) {
  const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const box = extent(all);
  if (!box) return null;
  const scale = (DIGIT * Math.min(height, width)) / Math.max(box.width, box.height);
  const small = surface(width, height);
  const draw = (x, y) => {
    small.fillRect(0, 0, width, height);
    small.drawImage(canvas, box.left, box.top, box.width, box.height, x, y, box.width * scale, box.height * scale);
    return planes(small.getImageData(0, 0, width, height).data, 1);
  };
  const [x, y] = [(width - box.width * scale) / 2, (height - box.height * scale) / 2];
  const [across, down] = middle(draw(x, y), width);
  const bytes = draw(x + (width - 1) / 2 - across, y + (height - 1) / 2 - down);
  return channels === 1 ? bytes : new Uint8Array([...bytes, ...bytes, ...bytes]);
}

/** Shows [channels, height, width] bytes in a canvas of that size. */
export function show(canvas, bytes, [channels, height, width]) {
  Object.assign(canvas, { width, height });
  const ink = canvas.getContext("2d");
  const image = ink.createImageData(width, height);
  const count = width * height;
  for (let i = 0; i < count; i += 1) {
    for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = bytes[channels === 1 ? i : c * count + i];
    image.data[4 * i + 3] = 255;
  }
  ink.putImageData(image, 0, 0);
}

function surface(width, height) {
  const ink = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  ink.imageSmoothingQuality = "high";
  ink.fillStyle = "black";
  ink.fillRect(0, 0, width, height);
  return ink;
}

// Where something is drawn.
function extent({ data, width, height }) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let i = 0; i < width * height; i += 1) {
    if (data[4 * i] < 32) continue;
    const [x, y] = [i % width, Math.floor(i / width)];
    [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

// The centre of mass.
function middle(bytes, width) {
  let [mass, across, down] = [0, 0, 0];
  bytes.forEach((value, i) => {
    mass += value;
    across += value * (i % width);
    down += value * Math.floor(i / width);
  });
  return [across / mass, down / mass];
}
