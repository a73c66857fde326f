// @ts-check
import { emptyState, render } from './lib.js';

export const title = 'SQL';

/** @param {HTMLElement} root @returns {import('./lib.js').View} */
export default function sql(root) {
  return { update: () => { render(emptyState('SQL', 'This view is not built yet.'), root); } };
}
