/** The basic components of every view, on Ariakit's accessible ones. */
import {
  Dialog as AriakitDialog,
  Menu as AriakitMenu,
  DialogDismiss,
  DialogHeading,
  MenuButton,
  MenuItem,
  type MenuItemProps,
  MenuProvider,
  useMenuContext,
} from "@ariakit/react";
import { X } from "lucide-react";
import { type ComponentProps, type KeyboardEvent, type ReactNode, useState } from "react";
import type { CustomContainerComponentProps } from "virtua";
import { t } from "../i18n.ts";

/** `keys`: the shortcut, which the tooltip tells too. */
export function IconButton({
  label,
  keys,
  children,
  className = "",
  ...rest
}: { label: string; keys?: string } & ComponentProps<"button">) {
  return (
    <button
      type="button"
      className={`icon-button ${className}`}
      aria-label={label}
      data-tip={label}
      data-keys={keys}
      {...rest}
    >
      {children}
    </button>
  );
}

/** A modal dialog, mounted while it is open. The element that opened it gets the focus back. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const [opener] = useState(openerOf);
  return (
    <AriakitDialog
      open
      onClose={onClose}
      className="dialog"
      backdrop={<div className="backdrop" />}
      finalFocus={opener}
      unmountOnHide
    >
      <header>
        <DialogHeading render={(props) => <h2 {...props} />}>{title}</DialogHeading>
        <DialogDismiss className="icon-button" aria-label={t("Close")}>
          <X size={20} />
        </DialogDismiss>
      </header>
      {children}
    </AriakitDialog>
  );
}

/** The focused element; in a menu, which is about to close, the button of the menu. */
function openerOf(): HTMLElement | null {
  const focused = document.activeElement;
  const menu = focused?.closest("[role=menu]");
  const opener = menu == null ? focused : document.querySelector(`[aria-controls="${CSS.escape(menu.id)}"]`);
  return opener instanceof HTMLElement && opener !== document.body ? opener : null;
}

/** The menu that a button opens and Tab closes. It is a landmark, because it is outside of the page's others. */
export function MenuContent({ label, id, children }: { label: string; id?: string; children: ReactNode }) {
  const menu = useMenuContext();
  const leave = (event: KeyboardEvent) => {
    if (event.key !== "Tab") return;
    event.preventDefault();
    menu?.hide();
  };
  return (
    <AriakitMenu
      className="menu"
      gutter={4}
      portal
      portalElement={landmark}
      preserveTabOrder={false}
      unmountOnHide
      aria-label={label}
      {...(id === undefined ? {} : { id })}
      onKeyDown={leave}
    >
      {children}
    </AriakitMenu>
  );
}

function landmark(): HTMLElement {
  const element = document.createElement("div");
  element.role = "region";
  element.ariaLabel = t("Menu");
  return element;
}

/** A button with a menu. */
export function Menu({
  label,
  icon,
  children,
  className = "icon-button",
}: {
  label: string;
  icon: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  return (
    <MenuProvider>
      <MenuButton className={className} aria-label={label} data-tip={label}>
        {icon}
      </MenuButton>
      <MenuContent label={label}>{children}</MenuContent>
    </MenuProvider>
  );
}

export function Item({ danger = false, ...rest }: { danger?: boolean } & MenuItemProps) {
  return <MenuItem className={`menu-item ${danger ? "danger" : ""}`} {...rest} />;
}

function clickable(Container: "div" | "ul") {
  return function Rows({ style: { pointerEvents: _, ...style }, ...rest }: CustomContainerComponentProps) {
    return <Container style={style} {...rest} />;
  };
}

/** The element around the rows of a virtual list. Virtua's default ignores clicks during and right after scrolling. */
export const [Rows, ListRows] = [clickable("div"), clickable("ul")];
