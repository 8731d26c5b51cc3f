'use strict';
// From a handler string to a function, in AWS's order of trying.

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');
const { pathToFileURL } = require('node:url');
const { faults, wrapping } = require('./errors.js');
const modules = require('./modules.js');

const EXPRESSION = /^([^.]*)\.(.*)$/;

/** The function that `full` names below `root`. Throws a fault, or whatever the function's own code throws while it loads. */
async function load(root, full) {
  if (full.includes('..')) {
    throw new faults.MalformedHandlerName(
      "'" + full + "' is not a valid handler name. Use absolute paths when specifying root directories in handler names.");
  }
  const base = path.basename(full);
  const match = base.match(EXPRESSION);
  if (!match || match.length !== 3) throw new faults.MalformedHandlerName('Bad handler');
  const [, module, names] = match;
  const app = await loadModule(root, full.substring(0, full.indexOf(base)), module);
  let found = app;
  for (const name of names.split('.')) found = found && found[name];
  if (found === undefined || found === null) {
    // A CommonJS module that was imported has its exports under default.
    found = app && app.default;
    for (const name of names.split('.')) found = found && found[name];
  }
  if (!found) throw new faults.HandlerNotFound(`${full} is undefined or not exported`);
  if (typeof found !== 'function') throw new faults.HandlerNotFound(`${full} is not a function`);
  return found;
}

async function loadModule(root, folder, module) {
  try {
    return await tryAll(root, folder, module);
  } catch (error) {
    if (error instanceof SyntaxError) throw wrapping('UserCodeSyntaxError', error);
    if (error && (error.code === 'MODULE_NOT_FOUND' || error.code === 'ERR_MODULE_NOT_FOUND')) throw wrapping('ImportModuleError', error);
    throw error;
  }
}

async function tryAll(root, folder, module) {
  const stem = path.resolve(root, folder, module);
  // As if the function's own directory asked.
  const require = createRequire(path.join(root, 'index.js'));
  const required = (file) => (fs.existsSync(file) ? [require(file)] : null);
  const imported = async (file) => (fs.existsSync(file) ? [await import(pathToFileURL(file).href)] : null);
  const isModule = typeOf(path.dirname(stem), root) === 'module';
  const file = [stem, `${stem}.js`, `${stem}.mjs`, `${stem}.cjs`].find((name) => fs.existsSync(name));
  if (file) modules.search(file);
  const found =
    required(stem) ||
    (isModule ? await imported(`${stem}.js`) : required(`${stem}.js`)) ||
    (await imported(`${stem}.mjs`)) ||
    required(`${stem}.cjs`);
  if (found) return found[0];
  return require(require.resolve(module, { paths: [root, folder] }));
}

/** `type` of the nearest package.json. */
function typeOf(directory, root) {
  for (let at = directory; ; at = path.dirname(at)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(at, 'package.json'), 'utf8')).type;
    } catch (error) {
      if (error instanceof SyntaxError || at === root || at === path.dirname(at)) return undefined;
    }
  }
}

module.exports = { load };
