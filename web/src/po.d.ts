declare module "*.po" {
  import type Tannin from "tannin";

  const translations: Tannin;
  export default translations;
  /** The server's messages that have placeholders, and what matches them */
  export const ofServer: readonly (readonly [text: string, pattern: string])[];
}
