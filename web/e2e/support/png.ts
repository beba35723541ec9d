/** Images of any size, made here. */
import { crc32, deflateSync } from "node:zlib";

export function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
  length.writeUInt32BE(data.length);
  sum.writeUInt32BE(crc32(body));
  return Buffer.concat([length, body, sum]);
}

/** A PNG of one colour, in as few bytes as it takes. */
export function png(width: number, height: number, ...more: Buffer[]): Buffer {
  const head = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]); // one bit of grey a pixel
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  const rows = Buffer.alloc(Math.min(height, 60_000) * (1 + Math.ceil(width / 8)));
  const magic = Buffer.from("89504e470d0a1a0a", "hex");
  const parts = [
    chunk("IHDR", head),
    ...more,
    chunk("IDAT", deflateSync(rows, { level: 9 })),
    chunk("IEND", Buffer.alloc(0)),
  ];
  return Buffer.concat([magic, ...parts]);
}
