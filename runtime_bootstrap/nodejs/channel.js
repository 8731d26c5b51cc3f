'use strict';
// Frames on descriptor 3. Byte layout: docs/protocol.md of the engine.

const fs = require('node:fs');
const net = require('node:net');
const { read, str8, bin32 } = require('./msgpack.js');

const INIT = 2, INVOKE = 4, SHUTDOWN = 9;
const MAX_PAYLOAD = 6 * 1024 * 1024 + 100;
const TRUE = Buffer.from([0xc3]), FALSE = Buffer.from([0xc2]), NIL = Buffer.from([0xc0]);
const NO_BYTES = Buffer.alloc(0);

/** The worker's end. `onMessage(parts)` gets every message; the end of the stream ends the process. */
class Channel {
  constructor(fd, onMessage) {
    this.onMessage = onMessage;
    this.requestId = null;
    this.held = NO_BYTES;
    this.socket = new net.Socket({ fd, readable: true, writable: true });
    this.socket.on('data', (data) => this.#take(data));
    this.socket.on('error', () => process.reallyExit(1));
    this.socket.on('end', () => process.reallyExit(0));
  }

  #take(data) {
    this.held = this.held.length ? Buffer.concat([this.held, data]) : data;
    while (this.held.length >= 4) {
      const size = this.held.readUInt32BE(0) + 4;
      if (this.held.length < size) {
        this.#gather(size);
        return;
      }
      const body = this.held.subarray(4, size);
      this.held = this.held.subarray(size);
      this.onMessage(read(body, 0)[0]);
    }
  }

  /** A big frame: its pieces are put together once, not once for each. */
  #gather(size) {
    const pieces = [this.held];
    let have = this.held.length;
    this.held = NO_BYTES;
    this.socket.removeAllListeners('data');
    const take = (data) => {
      pieces.push(data);
      have += data.length;
      if (have < size) return;
      this.socket.off('data', take);
      this.socket.on('data', (more) => this.#take(more));
      this.#take(Buffer.concat(pieces));
    };
    this.socket.on('data', take);
  }

  /** Whether the process may end while this waits: during an invocation only the function's own work counts. */
  ref() { this.socket.ref(); }
  unref() { this.socket.unref(); }

  #send(...parts) {
    let size = 0;
    for (const part of parts) size += part.length;
    const head = Buffer.allocUnsafe(4);
    head.writeUInt32BE(size, 0);
    return this.socket.write(size < 65536 ? Buffer.concat([head, ...parts]) : this.#cork(head, parts));
  }

  #cork(head, parts) {
    this.socket.cork();
    this.socket.write(head);
    const last = parts.pop();
    for (const part of parts) this.socket.write(part);
    process.nextTick(() => this.socket.uncork());
    return last;
  }

  hello() {
    this.#send(Buffer.from([0x93, 0x01, 0x01, 0x82]), str8('runtime'), str8('nodejs'), str8('version'), str8(process.versions.node));
  }

  next() { this.#send(Buffer.from([0x91, 0x03])); }

  respond(requestId, payload) {
    if (payload.length > MAX_PAYLOAD) {
      const size = Buffer.allocUnsafe(5);
      size[0] = 0xce;
      size.writeUInt32BE(payload.length, 1);
      this.#send(Buffer.from([0x94, 0x10]), str8(requestId), size, TRUE);
    } else {
      this.#send(Buffer.from([0x95, 0x05]), str8(requestId), TRUE, NIL, bin32(payload.length), payload);
    }
  }

  error(requestId, errorType, document, thenNext) {
    this.#send(Buffer.from([0x95, 0x06]), str8(requestId), thenNext ? TRUE : FALSE, str8(errorType), bin32(document.length), document);
  }

  initError(errorType, document) {
    this.#send(Buffer.from([0x93, 0x07]), str8(errorType), bin32(document.length), document);
  }

  streamStart(requestId, contentType) { this.#send(Buffer.from([0x94, 0x0d]), str8(requestId), str8(contentType), NIL); }

  /** False when the caller should wait for `drained`. */
  streamChunk(requestId, data) { return this.#send(Buffer.from([0x93, 0x0e]), str8(requestId), bin32(data.length), data); }

  drained(then) { this.socket.once('drain', then); }

  streamEnd(requestId, errorType, document) {
    const body = document ? [bin32(document.length), document] : [NIL];
    this.#send(Buffer.from([0x95, 0x0f]), str8(requestId), TRUE, str8(errorType), ...body);
  }

  log(level, text) {
    const data = Buffer.from(text);
    const stamp = Buffer.allocUnsafe(9);
    stamp[0] = 0xcf;
    stamp.writeBigUInt64BE(BigInt(Date.now()) * 1000n, 1);
    this.#send(Buffer.from([0x95, 0x08]), str8(this.requestId), stamp, Buffer.from([level]), bin32(data.length), data);
  }

  /** End the process when everything has been sent. */
  exit(status) {
    this.socket.end(() => process.reallyExit(status));
    setTimeout(() => process.reallyExit(status), 2000);
  }
}

/** Block until the code is in place; its directory. */
function waitReady(fd) {
  let path = '';
  const piece = Buffer.alloc(4096);
  while (!path.endsWith('\n')) {
    const size = fs.readSync(fd, piece);
    if (!size) process.reallyExit(0);
    path += piece.toString('utf8', 0, size);
  }
  fs.closeSync(fd);
  return path.slice(0, -1);
}

module.exports = { Channel, waitReady, INIT, INVOKE, SHUTDOWN };
