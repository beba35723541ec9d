declare module "*.po" {
  import type Tannin from "tannin";

  const translations: Tannin;
  export default translations;
}
