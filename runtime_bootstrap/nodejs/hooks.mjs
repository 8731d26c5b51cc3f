// `modules.js` for the Node.js that runs hooks in a thread of their own.
import modules from './modules.js';

let dirs = [];

export function initialize(data) {
  dirs = data.dirs;
}

export const resolve = (name, given, next) => modules.resolveLater(dirs, name, given, next);
