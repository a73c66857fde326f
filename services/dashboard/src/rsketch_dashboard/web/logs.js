// @ts-check
import { emptyState, render } from './lib.js';

export const title = 'Logs';

/** @param {HTMLElement} root @returns {import('./lib.js').View} */
export default function logs(root) {
  return { update: () => { render(emptyState('Logs', 'This view is not built yet.'), root); } };
}
