// Links that look like what they are of, with addresses that the router checks.
import { Anchor, Button, Menu, NavLink, type AnchorProps, type ButtonProps, type MenuItemProps, type NavLinkProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import type { ComponentPropsWithRef } from "react";

type A = Omit<ComponentPropsWithRef<"a">, "style">;

export const To = createLink((p: AnchorProps & A) => <Anchor underline="always" {...p} />);
export const ButtonTo = createLink((p: ButtonProps & A) => <Button component="a" {...p} />);
export const NavTo = createLink((p: NavLinkProps & A) => <NavLink component="a" {...p} />);
export const MenuTo = createLink((p: MenuItemProps & A) => <Menu.Item component="a" {...p} />);
