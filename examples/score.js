// Scores an image with a detector that `oddlens export` wrote, as a program without Python does.
//
//   npm install onnxruntime-node
//   node score.js part.onnx image.ppm
//
// The image is a binary PGM (grey) or PPM (colour) of 8 bits, and has the size of the detector's input.
"use strict";
const fs = require("node:fs");
const ort = require("onnxruntime-node");

/** The fields of a protobuf message, as pairs of field number and content; only strings and messages have a content. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const size = { 0: () => (varint(), 0), 1: () => 8, 2: varint, 5: () => 4 }[tag % 8]();
    yield [tag >> 3, bytes.subarray(at, at + size)];
    at += size;
  }
}

/** The metadata of an ONNX file: field 14 of the model, with the key in field 1 and the value in field 2. */
function readMetadata(model) {
  const entries = [...fields(model)].filter(([number]) => number === 14).map(([, entry]) => [...fields(entry)]);
  const text = (entry, wanted) => entry.find(([number]) => number === wanted)[1].toString("utf8");
  return Object.fromEntries(entries.map((entry) => [text(entry, 1), text(entry, 2)]));
}

/** The pixels of a binary PGM or PPM image, which must have the form of the detector's input. */
function readPixels(path, { height, width, channels, value_max }) {
  const content = fs.readFileSync(path);
  const header = /^(P[56])\s+(\d+)\s+(\d+)\s+255\s/.exec(content.subarray(0, 64).toString("latin1"));
  const kind = channels === 1 ? "P5" : "P6";
  const fits = header && header[1] === kind && Number(header[2]) === width && Number(header[3]) === height;
  if (!fits || value_max !== 255 || content.length !== header[0].length + height * width * channels) {
    throw new Error(`${path}: is no ${kind} image of ${width} x ${height} pixels of 8 bits`);
  }
  return new ort.Tensor("uint8", content.subarray(header[0].length), [1, height, width, channels]);
}

async function main(detector, image) {
  const { oddlens: manifest, "oddlens.decision": decision } = readMetadata(fs.readFileSync(detector));
  if (!manifest || !decision) throw new Error(`${detector}: is no calibrated detector of oddlens; export it again`);
  const { input, tiling, runtime } = JSON.parse(manifest);
  if (tiling || runtime.engine !== "onnxruntime") throw new Error(`${detector}: needs oddlens (tiles, or OpenVINO)`);
  const { threshold } = JSON.parse(decision);
  if (threshold === null) throw new Error(`${detector}: has a threshold for each group of images`);
  const session = await ort.InferenceSession.create(detector);
  const { anomaly_score: score } = await session.run({ pixels: readPixels(image, input) });
  const verdict = score.data[0] > threshold ? "anomaly" : "normal";
  console.log(JSON.stringify({ anomaly_score: score.data[0], threshold, verdict }));
}

main(...process.argv.slice(2)).catch((error) => { console.error(`error: ${error.message}`); process.exitCode = 1; });
