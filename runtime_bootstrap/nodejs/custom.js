'use strict';
// Functions that make CloudFormation's custom resources answer by https, on port 443 of the host in ResponseURL. Here that host is the engine, which is
// spoken to in plain text: requests to it for that one object go there by http.

let known = null;

exports.answerPlainly = (responseUrl) => {
  if (typeof responseUrl !== 'string' || !responseUrl.startsWith('http://')) return;
  const url = new URL(responseUrl);
  if (known === null) divert();
  known = { hostname: url.hostname, port: url.port || 80, path: url.pathname };
};

function divert() {
  const http = require('node:http');
  const https = require('node:https');
  const request = https.request;
  https.request = (...given) => {
    const first = given[0];
    const address = typeof first === 'string' || first instanceof URL ? new URL(first) : null;
    const more = address ? given[1] : first;
    const options = typeof more === 'object' && more !== null ? more : {};
    const hostname = address ? address.hostname : options.hostname || String(options.host || '').split(':')[0];
    const path = options.path || (address ? address.pathname + address.search : '');
    if (hostname !== known.hostname || path.split('?')[0] !== known.path) return request.apply(https, given);
    const callback = given.find((each) => typeof each === 'function');
    const { agent, protocol, host, ...rest } = options;
    return http.request({ ...rest, hostname, path, port: known.port }, callback);
  };
  require('node:module').syncBuiltinESMExports();
}
