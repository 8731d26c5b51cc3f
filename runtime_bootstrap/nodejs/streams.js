'use strict';
// Response streaming: the global `awslambda`, and the stream that a streaming handler writes to.

const { Writable } = require('node:stream');

const MARK = Symbol.for('aws.lambda.runtime.handler.streaming');
const HTTP = 'application/vnd.awslambda.http-integration-response';

/** What a streaming handler gets. Nothing is sent before its first byte, so that a handler that fails first gives an ordinary error. */
class ResponseStream extends Writable {
  constructor(channel, requestId) {
    super({ highWaterMark: 65536 });
    this.channel = channel;
    this.requestId = requestId;
    this.contentType = undefined;
    this.started = false;
    this._onBeforeFirstWrite = null;
  }

  setContentType(contentType) {
    if (this.started) throw new Error('Cannot set content-type, too late.');
    this.contentType = contentType;
  }

  start() {
    if (this.started) return;
    this.started = true;
    this.channel.streamStart(this.requestId, this.contentType);
    if (this._onBeforeFirstWrite) this._onBeforeFirstWrite((data) => this.channel.streamChunk(this.requestId, Buffer.from(data)));
  }

  write(chunk, ...more) {
    // As AWS's own stream does.
    const plain = typeof chunk === 'string' || Buffer.isBuffer(chunk) || chunk?.constructor === Uint8Array;
    return super.write(plain ? chunk : JSON.stringify(chunk), ...more);
  }

  _write(chunk, _encoding, done) {
    this.start();
    if (this.channel.streamChunk(this.requestId, chunk)) done();
    else this.channel.drained(done);
  }

  _final(done) {
    this.start();
    done();
  }
}

const HttpResponseStream = {
  from(stream, prelude) {
    stream.setContentType(HTTP);
    stream._onBeforeFirstWrite = (write) => {
      write(JSON.stringify(prelude));
      write(new Uint8Array(8));
    };
    return stream;
  },
};

function streamifyResponse(handler, options) {
  handler[MARK] = 'response';
  if (options && options.highWaterMark) handler[Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark')] = options.highWaterMark;
  return handler;
}

const isStreaming = (handler) => handler[MARK] === 'response';

module.exports = { ResponseStream, awslambda: { streamifyResponse, HttpResponseStream }, isStreaming };
