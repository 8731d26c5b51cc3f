'use strict';
// The part of msgpack that docs/protocol.md uses.

const HEADS = { 0xc0: null, 0xc2: false, 0xc3: true };

/** The value that begins at `at` in `data`, and where the next one begins. Throws RangeError for bytes that end too early. */
function read(data, at) {
  const tag = data[at++];
  if (tag < 0x80) return [tag, at];
  if (tag < 0x90) return readMap(data, at, tag & 0x0f);
  if (tag < 0xa0) return readArray(data, at, tag & 0x0f);
  if (tag < 0xc0) return readText(data, at, tag & 0x1f);
  if (tag in HEADS) return [HEADS[tag], at];
  switch (tag) {
    case 0xc4: return readBytes(data, at + 1, data.readUInt8(at));
    case 0xc5: return readBytes(data, at + 2, data.readUInt16BE(at));
    case 0xc6: return readBytes(data, at + 4, data.readUInt32BE(at));
    case 0xcc: return [data.readUInt8(at), at + 1];
    case 0xcd: return [data.readUInt16BE(at), at + 2];
    case 0xce: return [data.readUInt32BE(at), at + 4];
    case 0xcf: return [Number(data.readBigUInt64BE(at)), at + 8];
    case 0xd9: return readText(data, at + 1, data.readUInt8(at));
    case 0xda: return readText(data, at + 2, data.readUInt16BE(at));
    case 0xdb: return readText(data, at + 4, data.readUInt32BE(at));
    case 0xdc: return readArray(data, at + 2, data.readUInt16BE(at));
    case 0xde: return readMap(data, at + 2, data.readUInt16BE(at));
    default: throw new RangeError(`msgpack type 0x${tag.toString(16)} is not in the protocol`);
  }
}

function readText(data, at, size) {
  if (at + size > data.length) throw new RangeError('a text that ends too early');
  return [data.toString('utf8', at, at + size), at + size];
}

function readBytes(data, at, size) {
  if (at + size > data.length) throw new RangeError('bytes that end too early');
  return [data.subarray(at, at + size), at + size];
}

function readArray(data, at, count) {
  const values = [];
  for (let n = 0; n < count; n++) {
    let value;
    [value, at] = read(data, at);
    values.push(value);
  }
  return [values, at];
}

function readMap(data, at, count) {
  const map = {};
  for (let n = 0; n < count; n++) {
    let key, value;
    [key, at] = read(data, at);
    [value, at] = read(data, at);
    Object.defineProperty(map, key, { value, enumerable: true, writable: true, configurable: true });
  }
  return [map, at];
}

/** `str 8`, cut to 255 bytes, or nil. */
function str8(text) {
  if (text === null || text === undefined) return Buffer.from([0xc0]);
  let raw = Buffer.from(String(text));
  if (raw.length > 255) raw = Buffer.from(raw.subarray(0, 252).toString('utf8').replace(/\ufffd+$/, ''));
  return Buffer.concat([Buffer.from([0xd9, raw.length]), raw]);
}

/** The head of a `bin 32` of `size` bytes. */
function bin32(size) {
  const head = Buffer.allocUnsafe(5);
  head[0] = 0xc6;
  head.writeUInt32BE(size, 1);
  return head;
}

module.exports = { read, str8, bin32 };
