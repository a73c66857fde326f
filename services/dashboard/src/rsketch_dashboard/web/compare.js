// @ts-check
import { emptyState, render } from './lib.js';

export const title = 'Compare';

/** @param {HTMLElement} root @returns {import('./lib.js').View} */
export default function compare(root) {
  return { update: () => { render(emptyState('Compare', 'This view is not built yet.'), root); } };
}
